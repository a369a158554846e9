// The balance bias through steps, evaluation, resume and growth; training of a Dreamer-style model.
#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "depth/growth.h"
#include "run/telemetry.h"
#include "step/live_model.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;

namespace {

RunConfig dreamer_run(const std::string& compute = "fp32") {
  RunConfig config;
  config.model.architecture = "dreamer";
  config.model.vocab_size = 64;
  config.model.width = 32;
  config.model.blocks = 2;
  config.model.depth_plan = "(0-1)x2";
  config.model.attention = {2, 1, 16, 10000, false};
  config.model.feed_forward = {FeedForwardKind::kExperts, 16, 8, 2, 0, 8, 1e-2};
  config.model.depth_attention = DepthAttentionConfig{DepthAttentionKind::kSeparate, 1, DepthKeys::kStates, DepthPosition::kRope};
  config.data.sequence_length = 8;
  config.precision.compute = choice_of<Precision>(compute).value();
  config.precision.residual = config.precision.compute;
  return config;
}

HostBatch rows_of(std::int64_t from, std::int64_t sequences) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = 8;
  for (std::int64_t i = 0; i < sequences * 8; ++i) {
    if (i % 8 == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
    batch.inputs.push_back(static_cast<std::int32_t>((from + i * 7) % 64));
    batch.targets.push_back(static_cast<std::int32_t>((from + i * 7 + 7) % 64));
    batch.positions.push_back(static_cast<std::int32_t>(i % 8));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * 8));
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  return batch;
}

UpdateResult one_step(LiveModel& live, const RunConfig& config, std::int64_t n, std::int64_t micro_batches = 1) {
  SpikeDetector spikes;
  std::int64_t from = 0;
  return Updater(live, config, spikes)
      .run([&](std::int64_t count) { return rows_of(from++, count); }, {n, config.model.depth_plan.plan, 3e-3, micro_batches, 4});
}

at::Tensor bias_of(const LiveModel& live, std::int64_t block) {
  return const_cast<LiveModel&>(live).parameters().masters().at("blocks." + std::to_string(block) + ".feed_forward.balance_bias");
}

}  // namespace

TEST_CASE("the balance bias moves by the loads of all micro-batches and all calls of its block together") {
  const RunConfig config = dreamer_run();
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
  CHECK(bias_of(live, 0).abs().max().item<double>() == 0);
  std::vector<at::Tensor> expected{torch::zeros({8}), torch::zeros({8})};
  bool depths_differ = false;
  for (std::int64_t n = 1; n <= 3; ++n) {
    one_step(live, config, n, 3);
    const auto& by_depth = live.model().expert_loads().by_depth;
    REQUIRE(by_depth.size() == 4);
    for (std::int64_t block = 0; block < 2; ++block) {
      const at::Tensor first = by_depth.at(block).counts_E, second = by_depth.at(block + 2).counts_E;
      CHECK(first.sum().item<std::int64_t>() == 3 * 4 * 8 * 2);  // micro-batches, sequences, tokens, choices
      const at::Tensor loads = (first + second).to(torch::kFloat);
      expected[static_cast<std::size_t>(block)] += 1e-2 * (loads.mean() - loads).sign();
      depths_differ |= !torch::equal((first.to(torch::kFloat).mean() - first).sign(), (loads.mean() - loads).sign());
      CHECK(test::max_error(bias_of(live, block), expected[static_cast<std::size_t>(block)]) < 1e-6);
    }
  }
  CHECK(depths_differ);  // else one call's loads would have done
}

TEST_CASE("evaluation and a skipped update leave the balance bias, and their loads do not reach the next step") {
  const RunConfig config = dreamer_run();
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true), other(config, Timeline(config), registry, at::kCPU, 2, true);
  one_step(live, config, 1);
  one_step(other, config, 1);
  const at::Tensor before = bias_of(live, 0).clone();
  CHECK(before.abs().max().item<double>() > 0);
  Batch batch;
  batch.tokens_N = torch::randint(64, {32}, torch::kInt);
  batch.targets_N = batch.tokens_N;
  batch.positions_N = torch::arange(8, torch::kInt).repeat({4});
  batch.documents = ops::Documents::uniform(4, 8);
  const DepthPlan plan = config.model.depth_plan.plan;
  {
    torch::NoGradGuard no_grad;
    live.model().loss(batch, plan);
  }
  live.model().begin_update(plan);
  live.model().loss(batch, plan);
  CHECK(live.model().expert_counts().sum().item<std::int64_t>() == 4 * 32 * 2);  // calls, tokens, choices
  live.model().after_step(torch::tensor(false), live.model().expert_counts());
  CHECK(torch::equal(bias_of(live, 0), before));
  one_step(live, config, 2);
  one_step(other, config, 2);
  CHECK(torch::equal(bias_of(live, 0), bias_of(other, 0)));
  CHECK(torch::equal(live.parameters().master(), other.parameters().master()));
}

TEST_CASE("what does not count moves no bit of a bias, and what counts moves it by the loads that it is given") {
  const RunConfig config = dreamer_run();
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
  at::Tensor bias = bias_of(live, 1);
  bias.fill_(-0.0f);
  bias[3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor before = bias.view(torch::kInt).clone();
  live.model().begin_update(DepthPlan::parse("0, 1"));
  // As a sum over ranks hands them in: other counts than the model's own.
  const at::Tensor counts = torch::stack({torch::arange(8), torch::arange(8).flip(0)});
  live.model().after_step(torch::tensor(false), counts);
  CHECK(torch::equal(bias.view(torch::kInt), before));
  CHECK(bias_of(live, 0).abs().max().item<double>() == 0);
  live.model().after_step(torch::tensor(true), counts);
  CHECK(torch::equal(bias_of(live, 0), 1e-2 * (3.5 - torch::arange(8, torch::kFloat)).sign()));
  CHECK(bias[0].item<float>() == -1e-2f);
}

TEST_CASE("a resumed run continues to the bit, biases included; without their saved values it does not") {
  const RunConfig config = dreamer_run();
  const ModelRegistry registry = builtin_registry();
  LiveModel whole(config, Timeline(config), registry, at::kCPU, 2, true);
  for (std::int64_t n = 1; n <= 3; ++n) one_step(whole, config, n);
  NamedTensors weights, without_bias, state;
  for (const auto& [name, tensor] : whole.parameters().masters()) {
    weights.add(name, tensor.clone());
    without_bias.add(name, name.ends_with("balance_bias") ? torch::zeros_like(tensor) : tensor.clone());
  }
  for (const auto& [name, tensor] : whole.optimizer().state()) state.add(name, tensor.clone());
  LiveModel resumed(config, Timeline(config), registry, at::kCPU, 2, false),
      forgetful(config, Timeline(config), registry, at::kCPU, 2, false);
  resumed.load(weights, state);
  forgetful.load(without_bias, state);
  for (std::int64_t n = 4; n <= 6; ++n) {
    for (LiveModel* live : {&whole, &resumed, &forgetful}) one_step(*live, config, n);
  }
  CHECK(torch::equal(whole.parameters().master(), resumed.parameters().master()));
  CHECK_FALSE(torch::equal(whole.parameters().master(), forgetful.parameters().master()));
}

TEST_CASE("a grown cycle's biases are those of the blocks that were copied, and it trains on") {
  RunConfig config = dreamer_run();
  config.model.blocks = 4;
  config.model.depth_plan = "(0-1)x2";
  const ModelRegistry registry = builtin_registry();
  LiveModel small(config, Timeline(config), registry, at::kCPU, 2, true);
  for (std::int64_t n = 1; n <= 3; ++n) one_step(small, config, n);
  const SourceMap map = grow_map(GrowthOperator::kLidas, 2, 2);
  const auto grown = small.grown(map);
  for (std::size_t i = 0; i < map.size(); ++i) CHECK(torch::equal(bias_of(*grown, static_cast<std::int64_t>(i)), bias_of(small, map[i])));
  CHECK_FALSE(torch::equal(bias_of(small, 0), bias_of(small, 1)));
  config.model.depth_plan = "0-3";
  one_step(*grown, config, 4);
  CHECK(grown->model().expert_loads().by_depth.size() == 4);
}

TEST_CASE("one batch is learned by heart by a Dreamer-style model, in fp32 and bf16") {
  for (const char* compute : {"fp32", "bf16"}) {
    const RunConfig config = dreamer_run(compute);
    const ModelRegistry registry = builtin_registry();
    LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
    const double first = one_step(live, config, 1).loss;
    double last = 0;
    for (std::int64_t n = 2; n <= 60; ++n) last = one_step(live, config, n).loss;
    INFO(compute << ": " << first << " -> " << last);
    CHECK(first > 4);
    CHECK(last < 0.3);
  }
}

TEST_CASE("expert metrics: even loads are 1 and ln E, one expert alone is E and 0, and the calls of a block count together") {
  nn::ExpertLoads loads;
  CHECK(expert_metrics(loads).load.empty());
  loads.add(0, 0, torch::tensor({4, 0, 0, 0}, torch::kLong));
  loads.add(1, 0, torch::tensor({0, 4, 4, 4}, torch::kLong));
  loads.add(2, 1, torch::tensor({1, 1, 1, 1}, torch::kLong));
  const ExpertMetrics metrics = expert_metrics(loads);
  CHECK(metrics.load.at("0") == Approx(4));
  CHECK(metrics.entropy.at("0") == Approx(0).margin(1e-12));
  CHECK(metrics.load.at("1") == Approx(4.0 / 3));
  CHECK(metrics.entropy.at("2") == Approx(std::log(4)));
  CHECK(metrics.load.at("all") == Approx(1));
  CHECK(metrics.entropy.at("all") == Approx(std::log(4)));
}
