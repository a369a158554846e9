#include "config/timeline.h"

#include <cmath>

#include "config/load.h"
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
  const LearningRate rate(config_of(200000, 2000, 170000));
  CHECK(rate.at(1) == 3e-3 / 2000);
  CHECK(rate.at(1000) == 1.5e-3);
  CHECK(rate.at(2000) == 3e-3);
  CHECK(rate.at(170000) == 3e-3);
  CHECK(rate.at(170001) == 3e-3);  // the fraction begins at 0
  CHECK(rate.at(177501) == Approx(3e-3 * (1 - std::sqrt(0.25))));
  CHECK(rate.at(200000) == Approx(3e-3 * (1 - std::sqrt(29999.0 / 30000))));
  CHECK(rate.at(200000) > 0);
  CHECK(rate.piece_ends() == std::vector<std::int64_t>{2000, 170000, 200000});
}

TEST_CASE("other decays, none, and defaults") {
  RunConfig config = config_of(100, 10, 50);
  config.schedule.decay.kind = DecayKind::kLinear;
  CHECK(LearningRate(config).at(76) == Approx(3e-3 * 0.5));
  config.schedule.decay.kind = DecayKind::kCosine;
  CHECK(LearningRate(config).at(76) == Approx(3e-3 * 0.5));
  config.schedule.decay = {DecayKind::kNone, {}};
  CHECK(LearningRate(config).at(100) == 3e-3);
  CHECK(LearningRate(config).piece_ends() == std::vector<std::int64_t>{10, 100});
  config.schedule.warmup.reset();
  config.schedule.decay = {};
  CHECK(LearningRate(config).warmup_end == 1);
  CHECK(LearningRate(config).decay_from == 85);
}

TEST_CASE("growth changes the learning rate only where rewarming is asked for") {
  RunConfig config = config_of(1000, 10, 850);
  config.growth = GrowthConfig{};
  const Timeline plain(config);
  REQUIRE(plain.stages().size() == 3);
  const std::int64_t grown = plain.stages()[1].from_step;
  CHECK(plain.learning_rate(grown + 1) == 3e-3);
  config.growth->rewarm_steps = 20;
  const Timeline rewarmed(config);
  CHECK(rewarmed.learning_rate(grown) == 3e-3);
  CHECK(rewarmed.learning_rate(grown + 1) == Approx(3e-3 / 20));
  CHECK(rewarmed.learning_rate(grown + 20) == 3e-3);
}

TEST_CASE("stages, phases and repeats cut the run into spans, each with its plan") {
  const RunConfig config = parse_config(R"(
model: {vocab_size: 64, width: 32, blocks: 4, depth_plan: "0, (1-2)x1, 3", attention: {heads: 2}, loop: {repeats: {0: 1, 60: 3}}}
growth: {from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [30]}, plans: ["0, (1)x1", "0, (1-2)x1, 3"]}
data: {sequence_length: 16, sources: {text: {path: data/text}}}
phases:
  - {name: first, from_step: 0, mixture: {text: 1}}
  - {name: last, from_step: "1280 tokens", mixture: {text: 1}, depth_plan: "(0-3)x1"}
schedule: {steps: 100}
batch: {tokens: 16}
)",
                                        "run.yaml");
  const Timeline timeline(config);
  CHECK(timeline.updates() == 100);
  CHECK(timeline.phase_starts() == std::vector<std::int64_t>{0, 80});
  struct Expected {
    std::int64_t from, until;
    std::size_t stage, phase;
    const char* plan;
  };
  const std::vector<Expected> expected{
      {0, 30, 0, 0, "0, (1)x1"}, {30, 60, 1, 0, "0, (1-2)x1, 3"}, {60, 80, 1, 0, "0, (1-2)x3, 3"}, {80, 100, 1, 1, "(0-3)x3"}};
  REQUIRE(timeline.spans().size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Span& span = timeline.spans()[i];
    CHECK((span.from_step == expected[i].from && span.until_step == expected[i].until));
    CHECK((span.stage == expected[i].stage && span.phase == expected[i].phase));
    CHECK(config.model.plan_text(span.plan) == expected[i].plan);
    CHECK(timeline.plan_of_update(span, span.until_step) == span.plan);
    CHECK(timeline.longest_plan(span) == span.plan);
  }
  CHECK(timeline.most_calls() == 12);
  CHECK(timeline.stage_after(0) == 0);
  CHECK(timeline.stage_after(30) == 0);  // a checkpoint after update 30 holds the model before the growth
  CHECK(timeline.stage_after(31) == 1);
  CHECK(timeline.stage_after(100) == 1);
}

TEST_CASE("drawn repeats are the same for the same seed and update, and never more than the longest plan") {
  const auto timeline_of = [](int seed) {
    return Timeline(parse_config("run: {seed: " + std::to_string(seed) + R"(}
model: {vocab_size: 64, width: 32, blocks: 4, depth_plan: "0, (1-2)x2, 3", attention: {heads: 2}, loop: {repeats: {kind: poisson_lognormal, mean: 3, max: 6}}}
data: {sequence_length: 16, sources: {text: {path: data/text}}}
schedule: {steps: 4000}
)",
                                 "run.yaml"));
  };
  const Timeline timeline = timeline_of(1), same = timeline_of(1), other = timeline_of(2);
  REQUIRE(timeline.spans().size() == 1);
  const Span& span = timeline.spans().front();
  CHECK(span.plan.loop()->repeats == 2);  // as written
  CHECK(timeline.longest_plan(span).loop()->repeats == 6);
  std::int64_t differ = 0;
  double sum = 0;
  for (std::int64_t n = 1; n <= timeline.updates(); ++n) {
    const std::int64_t repeats = timeline.plan_of_update(span, n).loop()->repeats;
    CHECK((repeats >= 1 && repeats <= 6));
    CHECK(same.plan_of_update(span, n).loop()->repeats == repeats);
    differ += other.plan_of_update(span, n).loop()->repeats != repeats ? 1 : 0;
    sum += static_cast<double>(repeats);
  }
  CHECK(differ > 1000);
  CHECK(timeline.mean_repeats(span) == sum / static_cast<double>(timeline.updates()));
}
