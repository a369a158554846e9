// The source of the chunked cross-entropy on the CPU layer.
#include "kernels/dense/cross_entropy.h"

#include "kernels/dense/cpu_memory.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
using kernels::device::host::Grid;

TEST_CASE("cross-entropy: losses, and the gradient in the logits' place") {
  std::uint32_t seed = 0;
  for (const CrossEntropyCase& one : cross_entropy_cases()) {
    INFO(one.name);
    Grid::current().settings.seed = seed++ % 3;
    CHECK(cross_entropy_faults<CpuMemory>(one) == "");
  }
  Grid::current().settings.seed = 0;
}

TEST_CASE("cross-entropy in two schedules gives the same bits, in full sectors where rows are aligned") {
  Grid::current().traffic.clear();
  const CrossEntropyCase one{"", 3, 5120, 2, 0, true};
  CrossEntropyProblem<std::uint16_t, CpuMemory> first(one), second(one);
  first.run();
  Grid::current().settings.seed = 5;
  second.run();
  Grid::current().settings.seed = 0;
  CHECK(first.gradient() == second.gradient());
  for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
    INFO(line);
    CHECK(traffic.bank_conflicts == 0);
    CHECK(traffic.sectors <= traffic.ideal_sectors + 64);
  }
}

TEST_CASE("cross-entropy makes what cannot be a loss that stops the step") {
  const auto loss_of = [](float logit, std::int32_t target) {
    kernels::device::host::Array<float> logits(9), loss(1);
    kernels::device::host::Array<std::int32_t> targets(1);
    for (float& x : logits) x = 1;
    logits[3] = logit;
    targets[0] = target;
    kernels::cross_entropy({1, 9, kernels::Element::kFloat}, logits.data(), targets.data(), loss.data(), true, nullptr);
    return loss[0];
  };
  CHECK(std::isfinite(loss_of(1, 8)));
  CHECK(std::isnan(loss_of(1, 9)));
  CHECK(std::isnan(loss_of(NAN, 2)));
  CHECK(std::isnan(loss_of(INFINITY, 2)));
  CHECK(std::isinf(loss_of(-INFINITY, 3)));
}
