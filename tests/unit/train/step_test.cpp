#include "train/step.h"

#include <cmath>

#include "core/errors.h"
#include "support/catch.h"
#include "support/tolerance.h"
#include "unit/train/small_run.h"

using namespace meristem;
using test::rows;
using test::small_run;

TEST_CASE("one batch is learned by heart") {
  for (const char* compute : {"fp32", "bf16"}) {
    const RunConfig config = small_run(compute);
    const ModelRegistry registry = builtin_registry();
    LiveModel live(config, registry, at::kCPU, 2, true);
    SpikeDetector spikes;
    StepResult result;
    for (std::int64_t n = 1; n <= 150; ++n) {
      result = train_step(
          live, config.optimizer, at::kCPU, 2, [](std::int64_t count) { return rows(0, count); }, {n, DepthPlan::plain(2), 5e-3, 1, 4},
          spikes);
    }
    INFO(compute << " loss " << result.loss);
    CHECK(result.loss < 0.1);
  }
}

TEST_CASE("many micro-batches are one large batch: sums are divided once, by the targets of all") {
  const RunConfig config = small_run("fp32");
  const ModelRegistry registry = builtin_registry();
  LiveModel one(config, registry, at::kCPU, 2, true), many(config, registry, at::kCPU, 2, true);
  SpikeDetector a, b;
  const DepthPlan plan = DepthPlan::plain(2);
  const StepResult whole =
      train_step(one, config.optimizer, at::kCPU, 2, [](std::int64_t count) { return rows(0, count); }, {1, plan, 1e-3, 1, 8}, a);
  std::int64_t at = 0;
  const StepResult parts = train_step(
      many, config.optimizer, at::kCPU, 2,
      [&](std::int64_t count) {
        at += count;
        return rows(at - count, count);
      },
      {1, plan, 1e-3, 8, 1}, b);
  CHECK(whole.targets == 8 * 15);
  CHECK(parts.targets == whole.targets);
  CHECK(parts.loss == Approx(whole.loss).epsilon(1e-6));
  CHECK(parts.grad_norm == Approx(whole.grad_norm).epsilon(1e-5));
  CHECK(parts.loss_by_source[0] == Approx(whole.loss_by_source[0]).epsilon(1e-6));
  CHECK((whole.loss_by_source[0] + whole.loss_by_source[1]) / 2 == Approx(whole.loss).epsilon(1e-6));
  CHECK(test::max_error(one.parameters().grad(), many.parameters().grad()) < 1e-4 * one.parameters().grad().abs().max().item<double>());
}

TEST_CASE("clipping bounds the update's gradient, not the one that is reported") {
  RunConfig config = small_run("fp32");
  const ModelRegistry registry = builtin_registry();
  const auto first_moment = [&](double clip) {
    config.optimizer.clip_norm = clip;
    LiveModel live(config, registry, at::kCPU, 2, true);
    SpikeDetector spikes;
    const StepResult result = train_step(
        live, config.optimizer, at::kCPU, 2, [](std::int64_t count) { return rows(0, count); }, {1, DepthPlan::plain(2), 1e-3, 1, 4},
        spikes);
    // After one update the first moment is (1 - beta1) times the gradient that was used.
    double squares = 0;
    const NamedTensors state = live.optimizer().state();
    for (const auto& [name, tensor] : state) {
      if (name.rfind("exp_avg.", 0) == 0) squares += tensor.to(at::kDouble).square().sum().item<double>();
    }
    return std::pair{std::sqrt(squares) / (1 - config.optimizer.betas[0]), result.grad_norm};
  };
  const auto [free, norm] = first_moment(0);
  const auto [clipped, same_norm] = first_moment(norm / 4);
  CHECK(free == Approx(norm).epsilon(1e-5));
  CHECK(clipped == Approx(norm / 4).epsilon(1e-4));
  CHECK(same_norm == norm);
}

TEST_CASE("a non-finite loss or gradient stops before any weight changes") {
  const RunConfig config = small_run("fp32");
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, registry, at::kCPU, 2, true);
  {
    torch::NoGradGuard no_grad;
    live.parameters().view(live.parameters().master(), live.parameters().entries().back()).fill_(std::numeric_limits<float>::infinity());
  }
  const at::Tensor before = live.parameters().master().clone();
  SpikeDetector spikes;
  CHECK_THROWS_WITH(train_step(
                        live, config.optimizer, at::kCPU, 2, [](std::int64_t count) { return rows(0, count); },
                        {17, DepthPlan::plain(2), 1e-3, 1, 4}, spikes),
                    Catch::Contains("step 17") && Catch::Contains("stopped before the update"));
  CHECK(torch::equal(before.nan_to_num(), live.parameters().master().nan_to_num()));
}
