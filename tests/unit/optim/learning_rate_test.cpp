#include "optim/learning_rate.h"

#include <cmath>

#include "support/catch.h"

using namespace meristem;

namespace {

RunConfig config_of(std::int64_t steps, std::int64_t warmup, std::int64_t decay_from) {
  RunConfig config;
  config.model.blocks = 12;
  config.model.depth_plan = "0-11";
  config.optimizer.lr = 3e-3;
  config.schedule.steps = {static_cast<double>(steps), false};
  config.schedule.warmup = Amount{static_cast<double>(warmup), false};
  config.schedule.decay.from_step = Amount{static_cast<double>(decay_from), false};
  return config;
}

}  // namespace

TEST_CASE("warmup, flat, 1-sqrt: the written formula at its corners") {
  const RunConfig config = config_of(200000, 2000, 170000);
  CHECK(learning_rate(config, 1) == 3e-3 / 2000);
  CHECK(learning_rate(config, 1000) == 1.5e-3);
  CHECK(learning_rate(config, 2000) == 3e-3);
  CHECK(learning_rate(config, 170000) == 3e-3);
  CHECK(learning_rate(config, 170001) == 3e-3);  // the fraction begins at 0
  CHECK(learning_rate(config, 177501) == Approx(3e-3 * (1 - std::sqrt(0.25))));
  CHECK(learning_rate(config, 200000) == Approx(3e-3 * (1 - std::sqrt(29999.0 / 30000))));
  CHECK(learning_rate(config, 200000) > 0);
  CHECK(learning_rate_segment_ends(config) == std::vector<std::int64_t>{2000, 170000, 200000});
}

TEST_CASE("other decays, none, and defaults") {
  RunConfig config = config_of(100, 10, 50);
  config.schedule.decay.kind = "linear";
  CHECK(learning_rate(config, 76) == Approx(3e-3 * 0.5));
  config.schedule.decay.kind = "cosine";
  CHECK(learning_rate(config, 76) == Approx(3e-3 * 0.5));
  config.schedule.decay = {"none", {}};
  CHECK(learning_rate(config, 100) == 3e-3);
  CHECK(learning_rate_segment_ends(config) == std::vector<std::int64_t>{10, 100});
  config.schedule.warmup.reset();
  config.schedule.decay = {};
  CHECK(warmup_steps(config) == 1);
  CHECK(decay_from_step(config) == 85);
}

TEST_CASE("growth changes nothing unless rewarming is asked for") {
  RunConfig config = config_of(1000, 10, 850);
  config.growth = GrowthConfig{};
  const auto stages = growth_stages(config);
  REQUIRE(stages.size() == 3);
  const std::int64_t grown = stages[1].from_step;
  CHECK(learning_rate(config, grown + 1) == 3e-3);
  config.growth->rewarm_steps = 20;
  CHECK(learning_rate(config, grown) == 3e-3);
  CHECK(learning_rate(config, grown + 1) == Approx(3e-3 / 20));
  CHECK(learning_rate(config, grown + 20) == 3e-3);
}
