// Updates of several ranks against those of one: the same global batch, whatever calls a block, whoever keeps the optimizer's state.
#include <atomic>
#include <cmath>
#include <limits>

#include "core/errors.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/ranks_in_threads.h"
#include "unit/step/small_run.h"

namespace meristem {
namespace {

using test::as_ranks;
using test::rows;
using test::small_run;

constexpr std::int64_t kSequences = 8;

struct Case {
  std::string name;
  RunConfig config;
  DepthPlan plan;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](const std::string& name, const std::string& plan, const auto& change) {
    Case c{name, small_run("fp32"), DepthPlan::parse(plan)};
    c.config.parallel.bucket_mb = 0.01;
    change(c.config);
    out.push_back(std::move(c));
  };
  add("plain, tied", "0-1", [](RunConfig&) {});
  add("untied head", "0-1", [](RunConfig& config) { config.model.tie_embeddings = false; });
  add("looped, checkpointed", "0, (1)x3", [](RunConfig& config) {
    config.model.loop.injection = Injection::kConcat;
    config.memory.activation_checkpointing.every = 1;
  });
  add("truncated loop", "(0-1)x3", [](RunConfig& config) { config.model.loop.backprop_last = 1; });
  add("blocks in several loops", "(0)x2, (0-1)x2, (1)x2", [](RunConfig& config) { config.memory.activation_checkpointing.every = 2; });
  add("a loop's block before and behind it", "1, (0-1)x3, 0", [](RunConfig& config) { config.model.loop.backprop_last = 1; });
  add("experts and depth attention", "(0-1)x2", [](RunConfig& config) {
    FeedForwardConfig& experts = config.model.feed_forward;
    experts.kind = FeedForwardKind::kExperts;
    experts.inner = 32, experts.count = 6, experts.active = 2, experts.router_dim = 16, experts.balance_rate = 1e-2;
    DepthAttentionConfig depth;
    depth.heads = 2;
    config.model.depth_attention = depth;
    config.memory.activation_checkpointing.every = 2;
  });
  add("muon", "0-1", [](RunConfig& config) {
    config.optimizer.kind = OptimizerKind::kMuon;
    config.optimizer.muon = MuonConfig{};
  });
  return out;
}

// Rows of an update; those of the last quarter have no target.
HostBatch batch_of(std::int64_t from, std::int64_t count) {
  HostBatch batch = rows(from, count);
  for (std::int64_t row = 0; row < count; ++row) {
    if ((from + row) % kSequences < kSequences * 3 / 4) continue;
    for (std::int64_t t = 0; t < batch.length; ++t) batch.targets[static_cast<std::size_t>(row * batch.length + t)] = -1;
  }
  return batch;
}

struct Trained {
  std::vector<double> losses;
  at::Tensor first_gradient;
  NamedTensors weights, state;
};

const ModelRegistry kRegistry = builtin_registry();

// `updates` of them, of `micro` rows a forward pass.
Trained train(const Case& c, std::shared_ptr<Ranks> ranks, std::int64_t micro, int updates = 6) {
  const Timeline timeline(c.config);
  LiveModel live(c.config, timeline, kRegistry, at::kCPU, c.config.model.blocks, true, ranks);
  SpikeDetector spikes;
  Updater updater(live, c.config, spikes);
  const std::int64_t share = kSequences / ranks->size();
  Trained out;
  for (int n = 1; n <= updates; ++n) {
    std::int64_t at = kSequences * (n - 1) + share * ranks->rank();
    const auto next = [&](std::int64_t count) { return batch_of((at += count) - count, count); };
    out.losses.push_back(updater.run(next, {n, c.plan, 1e-2, share / micro, micro}).loss);
    if (n == 1) out.first_gradient = live.parameters().grad().clone();
  }
  updater.await_weights();
  updater.check_replicas();
  live.each_weight([&](const std::string& name, const at::Tensor& tensor) { out.weights.add(name, tensor.clone()); });
  live.each_state([&](const std::string& name, const at::Tensor& tensor) { out.state.add(name, tensor.clone()); });
  return out;
}

// What rank 0 of `count` has in the end.
Trained train_as(const Case& c, int count, bool sharded, std::int64_t micro) {
  Case own = c;
  own.config.parallel.shard_optimizer = sharded;
  Trained first;
  as_ranks(count, [&](std::shared_ptr<Ranks> ranks) {
    Trained mine = train(own, ranks, micro);
    if (ranks->first()) first = std::move(mine);
  });
  return first;
}

double furthest(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / std::abs(a[i]));
  return most;
}

void check_bits(const NamedTensors& a, const NamedTensors& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    INFO(name);
    CHECK(torch::equal(tensor, b.at(name)));
  }
}

TEST_CASE("two and four ranks, one of them without a target, train as one does; a sharded optimizer changes no bit") {
  for (const Case& c : cases()) {
    const Trained one = train(c, Ranks::alone(), 2);
    double by_splits = 0;  // how far one rank is from itself with other micro-batches
    for (const std::int64_t micro : {1, 4, 8})
      by_splits = std::max(by_splits, furthest(one.losses, train(c, Ranks::alone(), micro).losses));
    for (const int count : {2, 4}) {
      INFO(c.name << ", " << count << " ranks");
      const Trained whole = train_as(c, count, false, 1), sharded = train_as(c, count, true, 1);
      const std::int64_t size = std::min(one.first_gradient.numel(), whole.first_gradient.numel());  // padding differs
      const at::Tensor expected = one.first_gradient.narrow(0, 0, size), found = whole.first_gradient.narrow(0, 0, size);
      if (c.name != "muon") CHECK((found - expected).norm().item<double>() < 1e-6 * expected.norm().item<double>());
      CHECK(furthest(one.losses, whole.losses) <= std::max(1e-6, 2 * by_splits));
      CHECK(whole.losses == sharded.losses);
      check_bits(whole.weights, sharded.weights);
      check_bits(whole.state, sharded.state);
    }
  }
}

TEST_CASE("bf16 weights: sharded masters and moments are those of unsharded ones") {
  Case c{"bf16", small_run("bf16"), DepthPlan::plain(2)};
  c.config.parallel.bucket_mb = 0.01;
  const Trained whole = train_as(c, 2, false, 1), sharded = train_as(c, 2, true, 1);
  CHECK(whole.losses == sharded.losses);
  check_bits(whole.weights, sharded.weights);
  check_bits(whole.state, sharded.state);
}

TEST_CASE("a growth moves state between owners: four ranks grow as one does") {
  const RunConfig config = small_run("fp32");
  const auto grown = [&](std::shared_ptr<Ranks> ranks) {
    Case c{"", config, DepthPlan::plain(2)};
    c.config.parallel.bucket_mb = 0.01;
    LiveModel live(c.config, Timeline(c.config), kRegistry, at::kCPU, 2, true, ranks);
    SpikeDetector spikes;
    {
      Updater updater(live, c.config, spikes);
      updater.run([&](std::int64_t count) { return rows(ranks->rank() * 2, count); }, {1, c.plan, 1e-2, 1, 2});
      updater.await_weights();
    }
    const auto next = live.grown({0, 0, 1, 1});
    NamedTensors out;
    next->each_weight([&](const std::string& name, const at::Tensor& tensor) { out.add(name, tensor.clone()); });
    next->each_state([&](const std::string& name, const at::Tensor& tensor) { out.add("state." + name, tensor.clone()); });
    return out;
  };
  NamedTensors four;
  as_ranks(4, [&](std::shared_ptr<Ranks> ranks) {
    NamedTensors mine = grown(ranks);
    if (ranks->first()) four = std::move(mine);
  });
  CHECK(torch::equal(four.at("blocks.0.attention.qkv.weight"), four.at("blocks.1.attention.qkv.weight")));
  CHECK(torch::equal(four.at("state.exp_avg_sq.blocks.2.attention.qkv.weight"), four.at("state.exp_avg_sq.blocks.3.attention.qkv.weight")));
  CHECK(four.at("state.exp_avg.blocks.3.attention.qkv.weight").abs().max().item<double>() > 0);
  CHECK(four.at("state.step.blocks.3.decay").item<std::int64_t>() == 1);
}

TEST_CASE("what is not finite on one rank stops all of them, before anything moves") {
  Case c{"", small_run("fp32"), DepthPlan::plain(2)};
  std::atomic<int> stopped{0};
  as_ranks(2, [&](std::shared_ptr<Ranks> ranks) {
    LiveModel live(c.config, Timeline(c.config), kRegistry, at::kCPU, 2, true, ranks);
    SpikeDetector spikes;
    Updater updater(live, c.config, spikes);
    const at::Tensor before = live.parameters().master().clone();
    const auto next = [&](std::int64_t count) { return rows(ranks->rank() * 2, count); };
    if (ranks->rank() == 1) {
      torch::NoGradGuard no_grad;
      live.parameters().view(live.parameters().master(), live.parameters().entries().front()).fill_(INFINITY);
    }
    const std::string message = test::message_of<NonFiniteError>([&] { updater.run(next, {1, c.plan, 1e-2, 1, 2}); });
    RANK_CHECK(test::contains(message, "step 1"));
    if (ranks->rank() == 0) RANK_CHECK(torch::equal(live.parameters().master(), before));
    ++stopped;
  });
  CHECK(stopped == 2);
}

TEST_CASE("a stop request of one rank is heard by all, and seconds are told by rank") {
  Case c{"", small_run("fp32"), DepthPlan::plain(2)};
  as_ranks(2, [&](std::shared_ptr<Ranks> ranks) {
    LiveModel live(c.config, Timeline(c.config), kRegistry, at::kCPU, 2, true, ranks);
    SpikeDetector spikes;
    Updater updater(live, c.config, spikes);
    const auto next = [&](std::int64_t count) { return rows(ranks->rank() * 2, count); };
    const UpdateResult quiet = updater.run(next, {1, c.plan, 1e-2, 1, 2});
    RANK_CHECK(quiet.real_tokens == 20 + 22);
    RANK_CHECK(!quiet.stop_asked && quiet.seconds_by_rank.size() == 2 && quiet.seconds_by_rank[1] > 0);
    UpdateInput input{2, c.plan, 1e-2, 1, 2};
    input.stop_asked = ranks->rank() == 1;
    RANK_CHECK(updater.run(next, input).stop_asked);
  });
}

}  // namespace
}  // namespace meristem
