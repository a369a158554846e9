// What ranks.cpp stands on: c10d's store and process group. Only this room knows c10d, whose headers are slow to compile.
#pragma once

#include <vector>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "distributed/ranks.h"

namespace meristem {

struct Ranks::Engine {
  c10::intrusive_ptr<c10d::Store> store, words;  // two connections; words: for meet(), from any thread
  c10::intrusive_ptr<c10d::Backend> group;
};

struct Pending::Works {
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
};

// gloo.cpp for ranks on CPUs, nccl.cpp for ranks on GPUs. InputError where this build has none.
c10::intrusive_ptr<c10d::Backend> gloo_group(const c10::intrusive_ptr<c10d::Store>& store, const RankPlace& place, double timeout_seconds);
c10::intrusive_ptr<c10d::Backend> nccl_group(const c10::intrusive_ptr<c10d::Store>& store, const RankPlace& place, double timeout_seconds);

}  // namespace meristem
