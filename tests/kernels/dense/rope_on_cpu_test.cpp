// The source of RoPE, with and without QK norm, on the CPU layer.
#include "kernels/dense/rope.h"

#include "kernels/dense/cpu_memory.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
using kernels::device::host::Grid;

TEST_CASE("RoPE alone and behind QK norm, forward and backward, beside other columns") {
  std::uint32_t seed = 0;
  for (const RopeCase& one : rope_cases()) {
    INFO(one.name);
    Grid::current().settings.seed = seed++ % 4;
    CHECK(rope_faults<CpuMemory>(one) == "");
  }
  Grid::current().settings.seed = 0;
}

TEST_CASE("RoPE in two schedules gives the same bits, without a bank conflict") {
  for (const int head_dim : {16, 64, 128, 256}) {
    Grid::current().traffic.clear();
    const RopeCase one{"", 20, 5, 3, head_dim, 64};
    RopeProblem<std::uint16_t, CpuMemory> first(one), second(one);
    first.run();
    Grid::current().settings.seed = 5;
    second.run();
    Grid::current().settings.seed = 0;
    CHECK(first.bits() == second.bits());
    for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
      INFO(head_dim << " " << line);
      CHECK(traffic.bank_conflicts == 0);
    }
  }
}

TEST_CASE("RoPE refuses heads that no warp holds") {
  for (const int head_dim : {0, 7, kernels::kRopeMaxHeadDim + 2}) {
    CHECK_THROWS_AS(kernels::rope({1, 1, head_dim, kernels::Element::kBf16, nullptr, nullptr, nullptr}, nullptr, 0, 1, nullptr),
                    std::invalid_argument);
  }
  const kernels::RopeShape shape{1, 2, 64, kernels::Element::kBf16, nullptr, nullptr, nullptr};
  CHECK_THROWS_AS(kernels::qk_norm_rope_forward(shape, {3, 0, nullptr, nullptr}, 128, nullptr, 128, nullptr, 128, nullptr),
                  std::invalid_argument);
  CHECK_THROWS_AS(kernels::qk_norm_rope_forward(shape, {1, 0, nullptr, nullptr}, 127, nullptr, 128, nullptr, 128, nullptr),
                  std::invalid_argument);
}
