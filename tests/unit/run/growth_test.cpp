#include "depth/growth.h"
#include "step/live_model.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/tiny_model.h"

using namespace meristem;

namespace {

RunConfig config_of(std::int64_t blocks, OptimizerKind optimizer = OptimizerKind::kAdamw) {
  RunConfig config;
  config.optimizer.kind = optimizer;
  if (optimizer == OptimizerKind::kMuon) config.optimizer.muon = MuonConfig{};
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

// Every tensor of `after` under `prefix` that belongs to block i is that of block map[i] before; zeros where `zeroed` says so.
void check_grown(const NamedTensors& before, const NamedTensors& after, const std::string& prefix, const SourceMap& map,
                 const std::vector<bool>& zeroed) {
  std::size_t checked = 0;
  for (const auto& [name, tensor] : after) {
    if (!name.starts_with(prefix)) continue;
    INFO(name);
    const std::string rest = name.substr(prefix.size());
    std::string source = rest;
    bool zero = false;
    if (rest.starts_with("blocks.")) {
      const auto block = static_cast<std::size_t>(rest[7] - '0');
      source = "blocks." + std::to_string(map[block]) + rest.substr(8);
      zero = zeroed[block];
    }
    CHECK(torch::equal(tensor, zero ? torch::zeros_like(tensor) : before.at(prefix + source)));
    ++checked;
  }
  CHECK(checked > 0);
}

}  // namespace

TEST_CASE("a grown model's tensors are its sources', all that its optimizer keeps too, and it trains on") {
  for (const OptimizerKind optimizer : {OptimizerKind::kAdamw, OptimizerKind::kMuon}) {
    const RunConfig config = config_of(8, optimizer);
    const ModelRegistry registry = builtin_registry();
    LiveModel small(config, Timeline(config), registry, at::kCPU, 4, true);
    train(small, config, 5);
    const SourceMap map = grow_map(GrowthOperator::kLidas, 4, 4);
    for (const bool zero : {false, true}) {
      const auto grown = small.grown(map, InsertedBlocks::kCopy, zero ? InsertedMoments::kZero : InsertedMoments::kCopy);
      const NamedTensors before = small.parameters().masters(), after = grown->parameters().masters();
      const NamedTensors state_before = small.optimizer().state(), state_after = grown->optimizer().state();
      const std::vector<bool> none(map.size(), false);
      check_grown(before, after, "", map, none);
      for (const std::string& prefix : state_prefixes(config.optimizer)) {
        check_grown(state_before, state_after, prefix, map, zero ? inserted_blocks(map) : none);
      }
      CHECK(state_before.at("step.blocks.3.no_decay").item<std::int64_t>() == 5);
      const bool muon = optimizer == OptimizerKind::kMuon;
      CHECK(state_before.at(muon ? "momentum.blocks.3.attention.qkv.weight" : "exp_avg.blocks.3.attention.qkv.weight")
                .abs()
                .max()
                .item<float>() > 0);
      const at::Tensor first = before.at("blocks.0.attention.qkv.weight").clone();
      const auto losses = train(*grown, config, 10);
      CHECK(losses.back() < losses.front());
      // Nothing is tied: an update of the grown model leaves the small one alone, and copies part.
      CHECK(torch::equal(small.parameters().masters().at("blocks.0.attention.qkv.weight"), first));
    }
  }
}

TEST_CASE("a silent growth changes no bit of the logits, and its blocks then learn") {
  for (const FeedForwardKind kind : {FeedForwardKind::kSwiglu, FeedForwardKind::kExperts}) {
    RunConfig config = config_of(8);
    config.model.feed_forward.kind = kind;
    if (kind == FeedForwardKind::kExperts) {
      config.model.feed_forward.count = 4;
      config.model.feed_forward.active = 2;
      config.model.feed_forward.shared = 1;
      config.model.feed_forward.router_dim = 16;
      config.model.feed_forward.balance_rate = 1e-3;
    }
    const ModelRegistry registry = builtin_registry();
    LiveModel small(config, Timeline(config), registry, at::kCPU, 4, true);
    train(small, config, 5);
    const auto grown = small.grown(grow_map(GrowthOperator::kLidas, 4, 4), InsertedBlocks::kSilent);
    const Batch batch = test::random_batch(2, 8, config.model.vocab_size, 1);
    const auto logits_of = [&](LiveModel& live) {
      torch::NoGradGuard no_grad;
      return live.model().logits(batch, DepthPlan::plain(live.blocks()));
    };
    CHECK(torch::equal(logits_of(small), logits_of(*grown)));
    CHECK_FALSE(torch::equal(logits_of(small), logits_of(*small.grown(grow_map(GrowthOperator::kLidas, 4, 4)))));
    const std::string last =
        kind == FeedForwardKind::kExperts ? "blocks.4.feed_forward.shared_down.weight" : "blocks.4.feed_forward.down.weight";
    CHECK(grown->parameters().masters().at(last).abs().max().item<float>() == 0);
    const auto losses = train(*grown, config, 10);
    CHECK(losses.back() < losses.front());
    CHECK(grown->parameters().masters().at(last).abs().max().item<float>() > 0);
  }
}

TEST_CASE("before the first growth a growing run is the small model trained alone, bit for bit") {
  const ModelRegistry registry = builtin_registry();
  const RunConfig growing = config_of(8), alone = config_of(4);
  LiveModel a(growing, Timeline(growing), registry, at::kCPU, 4, true), b(alone, Timeline(alone), registry, at::kCPU, 4, true);
  CHECK(train(a, growing, 8) == train(b, alone, 8));
}
