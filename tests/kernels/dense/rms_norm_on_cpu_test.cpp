// RMSNorm's source on the CPU layer.
#include "kernels/dense/cpu_memory.h"
#include "kernels/dense/rms_norm.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
using kernels::device::host::Grid;

TEST_CASE("RMSNorm, forward and backward, with and without the residual addition") {
  std::uint32_t seed = 0;
  for (const RmsNormCase& one : rms_norm_cases()) {
    INFO(one.name);
    Grid::current().settings.seed = seed++ % 4;
    CHECK(rms_norm_faults<CpuMemory>(one) == "");
  }
  Grid::current().settings.seed = 0;
}

TEST_CASE("RMSNorm in two schedules gives the same bits, without a bank conflict, in full sectors") {
  Grid::current().traffic.clear();
  const RmsNormCase one{"", 40, 2048, true, true};
  RmsNormProblem<std::uint16_t, CpuMemory> first(one), second(one);
  first.run();
  Grid::current().settings.seed = 5;
  second.run();
  Grid::current().settings.seed = 0;
  CHECK(first.bits() == second.bits());
  for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
    INFO(line);
    CHECK(traffic.bank_conflicts == 0);
    // Not so the gain, whose sectors two accesses share, in the first-level cache, and the few sums of the second stage.
    if (line.rfind("elements.h", 0) == 0 || line.rfind("column_sums.cu", 0) == 0) continue;
    CHECK(traffic.sectors <= traffic.ideal_sectors + traffic.ideal_sectors / 8);
  }
}

TEST_CASE("RMSNorm refuses widths that no share holds") {
  for (const int width : {0, -1, kernels::kRmsNormMaxWidth + 1}) {
    CHECK_THROWS_AS(
        kernels::rms_norm_forward({1, width, kernels::Element::kBf16}, nullptr, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr),
        std::invalid_argument);
  }
}
