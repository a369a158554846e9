// The example of docs/adding_an_architecture.md, compiled from the page itself.
#include "own_architecture.h"
#include "depth/growth.h"
#include "models/costs.h"
#include "step/live_model.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

using namespace meristem;

namespace {

ModelRegistry with_own() {
  ModelRegistry registry = builtin_registry();
#include "own_registration.inc"
  return registry;
}

RunConfig own_run() {
  RunConfig config;
  config.model = test::tiny_config(2);
  config.model.architecture = "depth_mean";
  config.model.depth_plan = "0, (1)x2";
  config.data.sequence_length = 8;
  return config;
}

HostBatch counting(std::int64_t sequences) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = 8;
  for (std::int64_t i = 0; i < sequences * 8; ++i) {
    if (i % 8 == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
    batch.inputs.push_back(static_cast<std::int32_t>(i % 61));
    batch.targets.push_back(static_cast<std::int32_t>((i + 1) % 61));
    batch.positions.push_back(static_cast<std::int32_t>(i % 8));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * 8));
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  return batch;
}

}  // namespace

TEST_CASE("the documented example trains, grows, decodes and is counted like any other architecture") {
  const RunConfig config = own_run();
  const ModelRegistry registry = with_own();
  LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
  const DepthPlan plan = config.model.depth_plan.plan;
  SpikeDetector spikes;
  Updater updater(live, config, spikes);
  std::vector<double> losses;
  for (std::int64_t n = 1; n <= 30; ++n) losses.push_back(updater.run(counting, {n, plan, 3e-3, 1, 4}).loss);
  CHECK(losses.back() < 0.5 * losses.front());
  const NamedTensors masters = live.parameters().masters();
  CHECK(masters.at("blocks.1.depth_mean.output.weight").abs().max().item<double>() > 0);  // it learns from its zero start

  const auto grown = live.grown(grow_map(GrowthOperator::kAppend, 2, 1), false);
  CHECK(
      torch::equal(grown->parameters().masters().at("blocks.2.depth_mean.output.weight"), masters.at("blocks.1.depth_mean.output.weight")));

  torch::NoGradGuard no_grad;
  const Batch batch = test::random_batch(1, 6, 61, 1);
  const at::Tensor whole = live.model().logits(batch, plan);
  KvCache cache;
  for (std::int64_t t = 0; t < 6; ++t) {
    CHECK(test::max_error(live.model().decode(batch.tokens_N.narrow(0, t, 1), plan, cache), whole[t]) <
          1e-5 * whole.abs().max().item<double>());
  }

  RunConfig plain = config;
  plain.model.architecture = "decoder";
  const StageCost own = stage_cost(config, registry, {0, 0, 2, plan, {}}), without = stage_cost(plain, registry, {0, 0, 2, plan, {}});
  CHECK(own.parameters.total - without.parameters.total == 2 * (32 * 32 + 32));
  CHECK(own.flops.forward - without.flops.forward == 3 * 2 * 32 * 32 + 32 * (1 + 2 + 3));
}
