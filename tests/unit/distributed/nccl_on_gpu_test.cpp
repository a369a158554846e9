// NCCL's group at world size 1: compiled and linked wherever nvcc is, run where a GPU is. Two processes on one GPU are refused by
// Ranks::join before NCCL hears of it (ranks_test.cpp, bad_ranks_test.py).
#include <cstdio>
#include <cstdlib>

#include <torch/torch.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "distributed/engine.h"
#include "support/catch.h"

namespace meristem {
namespace {

TEST_CASE("one rank's collectives on a GPU leave its tensors as they are", "[gpu]") {
  if (!torch::cuda::is_available()) {
    std::puts("skipped: no GPU");
    std::exit(4);  // what CTest shows as skipped
  }
  const auto group = nccl_group(c10::make_intrusive<c10d::HashStore>(), RankPlace{}, 60);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kInt, at::kDouble}) {
    const at::Tensor x = torch::arange(64, torch::dtype(type).device(at::kCUDA)), before = x.clone();
    std::vector<at::Tensor> tensors{x};
    group->allreduce(tensors)->wait();
    CHECK(torch::equal(x, before));
    at::Tensor whole = x, own = x.narrow(0, 0, 64);
    group->_reduce_scatter_base(own, whole)->wait();
    CHECK(torch::equal(x, before));
    group->_allgather_base(whole, own)->wait();
    CHECK(torch::equal(x, before));
    group->startCoalescing();
    group->reduce(tensors);
    std::vector<at::Tensor> again{x};
    group->broadcast(again);
    group->endCoalescing()->wait();
    CHECK(torch::equal(x, before));
  }
}

}  // namespace
}  // namespace meristem
