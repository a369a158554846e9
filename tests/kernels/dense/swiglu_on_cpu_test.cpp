// SwiGLU's source on the CPU layer.
#include "kernels/dense/swiglu.h"

#include "kernels/dense/cpu_memory.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
using kernels::device::host::Grid;

TEST_CASE("SwiGLU, forward and backward") {
  for (const SwigluCase& one : swiglu_cases()) {
    INFO(one.name);
    CHECK(swiglu_faults<CpuMemory>(one) == "");
  }
}

TEST_CASE("SwiGLU reads and writes full sectors") {
  Grid::current().traffic.clear();
  CHECK(swiglu_faults<CpuMemory>({"", 3, 1024}) == "");
  for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
    INFO(line);
    CHECK(traffic.sectors == traffic.ideal_sectors);
  }
}

TEST_CASE("SwiGLU far beyond where the exponential ends") {
  kernels::device::host::Array<float> gate_up(8), y(4);
  const float gates[] = {-1e4f, -100.0f, 100.0f, 1e4f};
  for (std::size_t i = 0; i < 4; ++i) gate_up[i] = gates[i], gate_up[4 + i] = 1;
  kernels::swiglu_forward({1, 4, kernels::Element::kFloat}, gate_up.data(), y.data(), nullptr);
  CHECK(y[0] == 0);
  CHECK(std::abs(y[1]) < 1e-40f);
  CHECK(y[2] == 100);
  CHECK(y[3] == 1e4f);
}
