// The launches of a test: how they run, and what was counted.
#pragma once

#include <cstdint>
#include <functional>

#include "device/host/block.h"

namespace meristem::kernels::device::host {

struct Grid {
  static Grid& current();

  // Runs body() for every thread of every block, one block after the other.
  void run(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

  Settings settings;
  Traffic traffic;                // of all launches since it was cleared
  Work work;                      // the same
  int blocks = 0;                 // of the running launch
  std::int64_t shared_bytes = 0;  // that a block asked for, summed over the launches since it was cleared
};

}  // namespace meristem::kernels::device::host
