#include "models/costs.h"

#include "support/catch.h"
#include "support/tiny_model.h"

using namespace meristem;

namespace {

RunConfig config_of(std::int64_t blocks, std::int64_t width, std::int64_t inner, std::int64_t heads, std::int64_t kv_heads,
                    std::int64_t context) {
  RunConfig config;
  config.model.vocab_size = 49152;
  config.model.width = width;
  config.model.blocks = blocks;
  config.model.depth_plan = DepthPlan::plain(blocks).print();
  config.model.attention.heads = heads;
  config.model.attention.kv_heads = kv_heads;
  config.model.attention.head_dim = 64;
  config.model.feed_forward.inner = inner;
  config.data.sequence_length = context;
  config.batch = {1048576, 8};
  return config;
}

}  // namespace

TEST_CASE("the reference shapes count exactly") {
  const auto costs = [](const RunConfig& config) { return stage_costs(config, Timeline(config), builtin_registry()); };
  const auto small = costs(config_of(32, 960, 2560, 15, 5, 2048));
  CHECK(small.back().parameters.total == 361821120);
  CHECK(small.back().parameters.embedding == 49152 * 960);
  const auto large = costs(config_of(24, 2048, 8192, 32, 32, 2048));
  CHECK(large.back().parameters.total == 1711376384);
}

TEST_CASE("FLOPs are twice the multiply-adds of the matrices plus half the attention square") {
  const RunConfig config = config_of(2, 128, 256, 2, 1, 64);
  const StageCost cost = stage_costs(config, Timeline(config), builtin_registry()).back();
  const double matrices = 2.0 * 2 * (128 * (2 + 2) * 64 + 128 * 128 + 3 * 128 * 256), head = 2.0 * 49152 * 128;
  const double scores = 2 * 4.0 * 128 * 64 / 2;
  CHECK(cost.flops.forward == matrices + head + scores);
  CHECK(cost.flops.train == 3 * cost.flops.forward);
  CHECK(cost.flops.by_call.size() == 2);
  CHECK(cost.kv_bytes_per_token == 2 * 2 * 64 * 4);

  // With a window of 16 of 64: tokens see 1, 2, … 16, 16, …, counted as the square above, 16 - 16^2 / 128 in the mean; a quarter is kept.
  RunConfig windowed = config;
  windowed.model.attention.window = 16;
  const StageCost less = stage_costs(windowed, Timeline(windowed), builtin_registry()).back();
  CHECK(less.flops.scores == 2 * 4.0 * 128 * 14);
  CHECK(less.kv_bytes_per_token == cost.kv_bytes_per_token / 4);
}

TEST_CASE("a loop costs its calls in FLOPs and cache and nothing in parameters; growth is summed over its stages") {
  RunConfig config = config_of(4, 128, 256, 2, 2, 64);
  const StageCost plain = stage_costs(config, Timeline(config), builtin_registry()).back();
  config.model.depth_plan = "0, (1-2)x3, 3";
  const StageCost looped = stage_costs(config, Timeline(config), builtin_registry()).back();
  CHECK(looped.parameters.total == plain.parameters.total);
  CHECK(looped.kv_bytes_per_token == 2 * plain.kv_bytes_per_token);
  CHECK(looped.flops.by_call.size() == 8);

  config.model.depth_plan = "0-3";
  config.batch = {64, 1};
  config.schedule.steps = {100, false};
  config.growth = GrowthConfig{};
  config.growth->from_blocks = 2;
  config.growth->add_blocks = 2;
  const auto stages = stage_costs(config, Timeline(config), builtin_registry());
  REQUIRE(stages.size() == 2);
  // PROP-1 in two stages over 85 steps: 28 + 57, the last stage going on to 100.
  CHECK(stages[1].stage.from_step == 28);
  CHECK(total_flops(config, Timeline(config), builtin_registry()) ==
        Approx(64 * (28 * stages[0].flops.train + 72 * stages[1].flops.train)));
  CHECK(stages[1].memory.growth_peak > stages[0].memory.weights + stages[1].memory.weights);
}
