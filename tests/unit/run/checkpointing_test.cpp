#include "run/checkpointing.h"

#include "checkpoint/store.h"
#include "checkpoint/tensors.h"
#include "step/live_model.h"
#include "support/catch.h"
#include "support/tiny_model.h"

using namespace meristem;

namespace {

// 100 updates; 2 blocks, from update 30 on 4; the learning rate has segments 10 and 60 updates long, then the end.
RunConfig growing_run() {
  RunConfig config;
  config.model = test::tiny_config(4);
  config.schedule.steps = {100, false};
  config.schedule.warmup = Amount{10, false};
  config.schedule.decay.from_step = Amount{60, false};
  config.growth = GrowthConfig{};
  config.growth->op = GrowthOperator::kMidas;
  config.growth->from_blocks = 2;
  config.growth->add_blocks = 2;
  config.growth->schedule.kind = GrowthScheduleKind::kAtSteps;
  config.growth->schedule.at_steps = {Amount{30, false}};
  config.checkpoint.every = 0;
  return config;
}

std::uint64_t bytes_of(const RunConfig& config, std::int64_t blocks) {
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, blocks, true);
  const NamedTensors weights = live.parameters().masters(), state = live.optimizer().state();
  return checkpoint_bytes({TrainState{}, views_of(weights), views_of(state)});
}

}  // namespace

TEST_CASE("a run's checkpoints need the disk of those never rotated, the newest, and one in flight") {
  RunConfig config = growing_run();
  const ModelRegistry registry = builtin_registry();
  const auto need = [&](std::int64_t from_step) {
    return static_cast<double>(checkpoint_disk_need(config, Timeline(config), registry, from_step));
  };
  const auto small = static_cast<double>(bytes_of(config, 2)), full = static_cast<double>(bytes_of(config, 4));
  const double room = 10 * (1 << 18);  // for headers, which the estimate rounds up
  const auto about = [&](double least, double value) {
    CHECK(value >= least);
    CHECK(value <= least + room);
  };
  about(2 * small + 3 * full, need(0));  // 10, 30 | 60, 100 and one in flight
  about(3 * full, need(30));
  config.checkpoint.every = 5;
  config.checkpoint.keep_last = 3;
  about(2 * small + 6 * full, need(0));
  about(3 * full, need(30));  // the newest replace those that are there
  config.checkpoint.keep_every = 20;
  about(3 * small + 8 * full, need(0));  // 20 | 40, 80 too; 60 and 100 are pinned
  config.checkpoint.keep_every = 1;      // but only what is written can be kept
  CHECK(need(0) < 2 * small + 6 * full + 20 * full + 40 * (1 << 18));
}
