// `plan`'s memory figures against what an update really holds: the peak of LibTorch's allocator.
#include <thread>

#include "core/counter_rng.h"
#include "models/costs.h"
#include "ops/products.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/counting_allocator.h"

using namespace meristem;

namespace {

RunConfig shape(const std::string& plan, std::int64_t blocks) {
  RunConfig config;
  config.model.vocab_size = 2048;
  config.model.width = 128;
  config.model.blocks = blocks;
  config.model.depth_plan = plan;
  config.model.attention.heads = 4;
  config.model.attention.kv_heads = 2;
  config.model.attention.head_dim = 32;
  config.model.feed_forward.inner = 384;
  config.data.sequence_length = 256;
  config.batch = {1024, 4};
  config.schedule.steps = {10, false};
  config.precision = {Precision::kFp32, Precision::kFp32};
  return config;
}

HostBatch tokens(std::int64_t sequences, std::int64_t length) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = length;
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    if (i % length == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
    batch.inputs.push_back(static_cast<std::int32_t>(random_u64(1, static_cast<std::uint64_t>(i)) % 64));
    batch.targets.push_back(static_cast<std::int32_t>(random_u64(1, static_cast<std::uint64_t>(i + 1)) % 64));
    batch.positions.push_back(static_cast<std::int32_t>(i % length));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * length));
  return batch;
}

struct Measured {
  double standing = 0, peak = 0;  // bytes: between updates, and the most during one
};

Measured measure(const RunConfig& config) {
  auto& allocator = test::CountingAllocator::install();
  const ModelRegistry registry = builtin_registry();
  const std::int64_t before = allocator.held();
  LiveModel live(config, Timeline(config), registry, at::kCPU, config.model.blocks, true);
  SpikeDetector spikes;
  Updater updater(live, config, spikes);
  const DepthPlan plan = Timeline(config).stages().back().plan;
  const HostBatch batch = tokens(4, config.data.sequence_length);
  Measured measured;
  // What a thread's products keep from step to step goes with the thread: each case begins without, and it does not count as standing.
  std::thread([&] {
    for (std::int64_t n = 1; n <= 2; ++n) {
      allocator.reset_peak();
      updater.run([&](std::int64_t) { return batch; }, {n, plan, 1e-3, 1, 4});
    }
  }).join();
  measured.standing = static_cast<double>(allocator.held() - before);
  measured.peak = static_cast<double>(allocator.peak() - before);
  return measured;
}

}  // namespace

TEST_CASE("plan's memory is within 10 % of what the allocator measures") {
  struct Case {
    const char *name, *plan;
    std::int64_t blocks, every;
    const char *injection, *compute;
    std::optional<std::int64_t> backprop_last;
    std::int64_t vocab = 2048, length = 256;
    OptimizerKind optimizer = OptimizerKind::kAdamw;
  };
  for (const Case& c : {Case{"plain", "0-5", 6, 0, "none", "fp32", {}},
                        {"loop", "0, (1-2)x6, 3", 4, 0, "none", "fp32", {}},
                        {"loop, concat", "0, (1-2)x6, 3", 4, 0, "concat", "fp32", {}},
                        {"loop, truncated", "0, (1-2)x6, 3", 4, 0, "none", "fp32", 2},
                        {"loop, block", "0, (1-2)x6, 3", 4, 1, "none", "fp32", {}},
                        {"plain, every 2", "0-7", 8, 2, "none", "fp32", {}},
                        {"plain, bf16", "0-5", 6, 0, "none", "bf16", {}},
                        {"loop, block, bf16", "0, (1-2)x6, 3", 4, 1, "none", "bf16", {}},
                        {"several chunks of logits, bf16", "0-1", 2, 0, "none", "bf16", {}, 16384},
                        {"few tokens: the loop's gradients count", "(0-7)x2", 8, 1, "none", "fp32", {}, 64, 16},
                        {"Muon, bf16", "0-5", 6, 0, "none", "bf16", {}, 2048, 256, OptimizerKind::kMuon},
                        {"few tokens: Muon's update counts", "0-1", 2, 0, "none", "fp32", {}, 64, 16, OptimizerKind::kMuon}}) {
    RunConfig config = shape(c.plan, c.blocks);
    config.precision = {*choice_of<Precision>(c.compute), *choice_of<Precision>(c.compute)};
    config.model.vocab_size = c.vocab;
    config.data.sequence_length = c.length;
    config.optimizer.kind = c.optimizer;
    if (c.optimizer == OptimizerKind::kMuon) config.optimizer.muon = MuonConfig{};
    config.model.loop.injection = *choice_of<Injection>(c.injection);
    config.model.loop.backprop_last = c.backprop_last;
    config.memory.activation_checkpointing.every = c.every;
    for (const char* products : {"library", "fused"}) {
      config.kernels.linear = config.kernels.experts = products;
      const MemoryEstimate planned = stage_costs(config, Timeline(config), builtin_registry()).back().memory;
      const Measured measured = measure(config);
      INFO(c.name << ", products " << products << ": planned standing " << planned.weights + planned.optimizer + planned.gradients
                  << " peak " << planned.total() << ", measured standing " << measured.standing << " peak " << measured.peak << " ratio "
                  << planned.total() / measured.peak << " activations planned " << planned.activations << " measured "
                  << measured.peak - measured.standing);
      CHECK(planned.total() == Approx(measured.peak).epsilon(0.1));
      CHECK(std::max(planned.activations, planned.kept + planned.update) == Approx(measured.peak - measured.standing).epsilon(0.1));
    }
  }
}

// Strands need not be at their peaks at the same time, so what they hold together is planned, and measured at most.
TEST_CASE("plan's memory counts each strand's gradients and activations") {
  const int threads = at::get_num_threads();
  for (const char* compute : {"fp32", "bf16"}) {
    RunConfig config = shape("0-5", 6), half = config;
    config.precision = half.precision = {*choice_of<Precision>(compute), *choice_of<Precision>(compute)};
    half.batch = {512, 2};
    const MemoryEstimate one = stage_costs(half, Timeline(half), builtin_registry()).back().memory;
    at::set_num_threads(2);
    const MemoryEstimate planned = stage_costs(config, Timeline(config), builtin_registry()).back().memory;
    const Measured measured = measure(config);
    at::set_num_threads(threads);
    INFO(compute << ": planned " << planned.total() << ", measured " << measured.peak);
    CHECK(planned.gradients == one.gradients);
    CHECK(planned.strand_gradients == one.gradients);
    CHECK(one.strand_gradients == 0);
    CHECK(planned.activations == Approx(2 * one.activations));
    CHECK(planned.weights + planned.optimizer + planned.gradients + planned.strand_gradients == Approx(measured.standing).epsilon(0.1));
    CHECK(measured.peak < 1.1 * planned.total());
    CHECK(measured.peak > 0.9 * (planned.total() - planned.activations / 2));
  }
}

TEST_CASE("plan's memory is within 10 % of what the allocator measures, for experts and depth attention") {
  struct Case {
    const char *name, *kind;  // of depth attention; "" without
    bool experts;
    std::int64_t every;
    const char* compute;
    std::int64_t count = 32, length = 256;
    const char* norm = "pre";
    bool qk_norm = false;
  };
  for (const Case& c : {Case{"experts", "", true, 0, "fp32"},
                        {"experts, bf16", "", true, 0, "bf16"},
                        {"experts, block", "", true, 1, "fp32"},
                        {"separate", "separate", false, 0, "fp32"},
                        {"separate, bf16", "separate", false, 0, "bf16"},
                        {"separate, block", "separate", false, 1, "fp32"},
                        {"joint", "joint", false, 0, "fp32"},
                        {"joint, bf16", "joint", false, 0, "bf16"},
                        {"values", "values", false, 0, "fp32"},
                        {"values, block", "values", false, 1, "fp32"},
                        {"Dreamer-style", "separate", true, 0, "fp32"},
                        {"Dreamer-style, block, bf16", "separate", true, 1, "bf16"},
                        {"many experts for few tokens", "", true, 0, "fp32", 512, 16},
                        {"many experts for few tokens, bf16", "", true, 0, "bf16", 512, 16},
                        {"post norm", "", false, 0, "fp32", 32, 256, "post"},
                        {"post norm, Dreamer-style", "separate", true, 0, "fp32", 32, 256, "post"},
                        {"sandwich norm", "", false, 0, "fp32", 32, 256, "sandwich"},
                        {"QK norm", "", false, 0, "fp32", 32, 256, "pre", true},
                        {"post norm, QK norm, bf16", "", false, 0, "bf16", 32, 256, "post", true}}) {
    RunConfig config = shape("(0)x8", 1);
    config.model.architecture = "dreamer";
    config.model.norm = *choice_of<Norm>(c.norm);
    config.model.attention.qk_norm = c.qk_norm;
    if (c.qk_norm && config.model.norm == Norm::kPost) config.model.attention.qk_norm_over = QkNormOver::kAll;
    config.data.sequence_length = c.length;
    config.precision = {*choice_of<Precision>(c.compute), *choice_of<Precision>(c.compute)};
    config.memory.activation_checkpointing.every = c.every;
    if (*c.kind != 0) {
      config.model.depth_attention = DepthAttentionConfig{};
      config.model.depth_attention->kind = *choice_of<DepthAttentionKind>(c.kind);
      config.model.depth_attention->heads = 1;
    }
    if (c.experts) {
      config.model.feed_forward.kind = FeedForwardKind::kExperts;
      config.model.feed_forward.count = c.count;
      config.model.feed_forward.active = 4;
      config.model.feed_forward.inner = 64;
      config.model.feed_forward.router_dim = 32;
      config.model.feed_forward.balance_rate = 1e-3;
    }
    for (const char* products : {"library", "fused"}) {
      config.kernels.linear = config.kernels.experts = products;
      const MemoryEstimate planned = stage_costs(config, Timeline(config), builtin_registry()).back().memory;
      const Measured measured = measure(config);
      INFO(c.name << ", products " << products << ": planned peak " << planned.total() << " measured " << measured.peak << " ratio "
                  << planned.total() / measured.peak << " activations planned " << planned.activations << " measured "
                  << measured.peak - measured.standing << " ratio " << planned.activations / (measured.peak - measured.standing));
      CHECK(planned.total() == Approx(measured.peak).epsilon(0.1));
      // How many experts' weights are packed at once, as fp32 on some processors, is the router's affair: planned are as many as may be.
      const double experts = c.experts ? static_cast<double>(c.count) : 0;
      const double packed = std::min(static_cast<double>(ops::kPackedBytes) * at::get_num_threads(), experts * 2 * 64 * 128 * 4);
      const double found = measured.peak - measured.standing, more = *products == 'f' ? packed : 0;
      CHECK(planned.activations > 0.9 * found);
      CHECK(planned.activations < 1.1 * found + more);
    }
  }
}
