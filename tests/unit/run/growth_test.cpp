#include "depth/growth.h"
#include "step/live_model.h"
#include "step/update.h"
#include "support/catch.h"

using namespace meristem;

namespace {

RunConfig config_of(std::int64_t blocks) {
  RunConfig config;
  config.model.vocab_size = 64;
  config.model.width = 32;
  config.model.blocks = blocks;
  config.model.depth_plan = DepthPlan::plain(blocks).print();
  config.model.attention.heads = 2;
  config.model.attention.kv_heads = 1;
  config.model.attention.head_dim = 16;
  config.model.feed_forward.inner = 64;
  config.data.sequence_length = 8;
  return config;
}

HostBatch batch_of(std::int64_t sequences) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = 8;
  for (std::int64_t i = 0; i < sequences * 8; ++i) {
    if (i % 8 == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
    batch.inputs.push_back(static_cast<std::int32_t>((i * 7) % 64));
    batch.targets.push_back(static_cast<std::int32_t>((i * 7 + 7) % 64));
    batch.positions.push_back(static_cast<std::int32_t>(i % 8));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * 8));
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  return batch;
}

std::vector<double> train(LiveModel& live, const RunConfig& config, std::int64_t steps) {
  std::vector<double> losses;
  SpikeDetector spikes;
  for (std::int64_t n = 1; n <= steps; ++n) {
    losses.push_back(Updater(live, config, spikes).run(batch_of, {n, DepthPlan::plain(live.blocks()), 1e-3, 1, 4}).loss);
  }
  return losses;
}

}  // namespace

TEST_CASE("a grown model's tensors are its sources', moments and step counts too, and it trains on") {
  const RunConfig config = config_of(8);
  const ModelRegistry registry = builtin_registry();
  LiveModel small(config, Timeline(config), registry, at::kCPU, 4, true);
  train(small, config, 5);
  const SourceMap map = grow_map(GrowthOperator::kLidas, 4, 4);
  for (const bool zero : {false, true}) {
    const auto grown = small.grown(map, zero);
    const NamedTensors before = small.parameters().masters(), after = grown->parameters().masters();
    const NamedTensors state_before = small.optimizer().state(), state_after = grown->optimizer().state();
    const auto inserted = inserted_blocks(map);
    std::size_t checked = 0;
    for (std::size_t i = 0; i < map.size(); ++i) {
      const std::string to = "blocks." + std::to_string(i) + ".", from = "blocks." + std::to_string(map[i]) + ".";
      for (const auto& [name, tensor] : after) {
        if (name.rfind(to, 0) != 0) continue;
        const std::string source = from + name.substr(to.size());
        CHECK(torch::equal(tensor, before.at(source)));
        for (const char* moment : {"exp_avg.", "exp_avg_sq."}) {
          const at::Tensor& now = state_after.at(moment + name);
          CHECK(torch::equal(now, zero && inserted[i] ? torch::zeros_like(now) : state_before.at(moment + source)));
        }
        ++checked;
      }
      for (const char* group : {"decay", "no_decay"}) {
        CHECK(state_after.at("step." + to + group).item<std::int64_t>() == (zero && inserted[i] ? 0 : 5));
      }
    }
    CHECK(checked + 2 == after.size());  // the embedding and the last norm stand outside the blocks
    CHECK(torch::equal(after.at("embedding.weight"), before.at("embedding.weight")));
    const auto losses = train(*grown, config, 10);
    CHECK(losses.back() < losses.front());
    // Nothing is tied: a step of the grown model leaves the small one alone, and copies part.
    CHECK(torch::equal(small.parameters().masters().at("blocks.0.attention.qkv.weight"), before.at("blocks.0.attention.qkv.weight")));
  }
}

TEST_CASE("before the first growth a growing run is the small model trained alone, bit for bit") {
  const ModelRegistry registry = builtin_registry();
  const RunConfig growing = config_of(8), alone = config_of(4);
  LiveModel a(growing, Timeline(growing), registry, at::kCPU, 4, true), b(alone, Timeline(alone), registry, at::kCPU, 4, true);
  CHECK(train(a, growing, 8) == train(b, alone, 8));
}
