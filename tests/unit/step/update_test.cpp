// One update: sums divided once, clipping, refusal; and that captured micro-batches change nothing but when the result is known.
#include "step/update.h"

#include <cmath>
#include <limits>

#include "core/errors.h"
#include "support/catch.h"
#include "support/tolerance.h"
#include "unit/step/fakes.h"
#include "unit/step/small_run.h"

using namespace meristem;
using test::rows;
using test::small_run;

namespace {

const ModelRegistry kRegistry = builtin_registry();

LiveModel two_blocks(const RunConfig& config) { return LiveModel(config, Timeline(config), kRegistry, at::kCPU, 2, true); }

// Rows of a run of its own.
NextBatch from_the_start(std::int64_t& at) {
  return [&at](std::int64_t count) { return rows((at += count) - count, count); };
}

HostBatch first_rows(std::int64_t count) { return rows(0, count); }

UpdateInput input_of(std::int64_t number, const DepthPlan& plan) {
  return {number, plan, 1e-3 * static_cast<double>(number), 2, 2, number % 3 == 0};
}

RunConfig with_experts() {
  RunConfig config = small_run("fp32");
  config.model.feed_forward.kind = FeedForwardKind::kExperts;
  config.model.feed_forward.inner = 32;
  config.model.feed_forward.count = 6;
  config.model.feed_forward.active = 2;
  config.model.feed_forward.router_dim = 16;
  config.model.feed_forward.balance_rate = 1e-2;
  return config;
}

// Everything that an update moves: weights (expert biases among them), moments, step counts.
NamedTensors state_of(LiveModel& live) {
  NamedTensors out;
  for (const auto& [name, tensor] : live.parameters().masters()) out.add(name, tensor.clone());
  for (const auto& [name, tensor] : live.optimizer().state()) out.add("optimizer." + name, tensor.clone());
  return out;
}

void check_equal(const NamedTensors& wanted, const NamedTensors& found) {
  REQUIRE(wanted.size() == found.size());
  for (const auto& [name, tensor] : wanted) {
    INFO(name);
    CHECK(torch::equal(tensor.nan_to_num(), found.at(name).nan_to_num()));
  }
}

void check_same(const UpdateResult& plain, const UpdateResult& graphed) {
  CHECK(plain.loss == graphed.loss);
  CHECK(plain.grad_norm == graphed.grad_norm);
  CHECK(plain.targets == graphed.targets);
  CHECK(plain.targets_by_source == graphed.targets_by_source);
  CHECK(plain.loss_by_source == graphed.loss_by_source);
  CHECK(plain.stream_rms == graphed.stream_rms);
}

// Nine updates, plainly and by graphs; plans change on the way, and results are asked for every third update.
void check_graphs(const RunConfig& config) {
  LiveModel plain = two_blocks(config), graphed = two_blocks(config);
  test::GraphCounts counts;
  SpikeDetector spikes, same_spikes;
  Updater plainly(plain, config, spikes), by_graphs(graphed, config, same_spikes, test::fake_device(counts));
  std::int64_t at = 0, same_at = 0;
  std::vector<UpdateResult> wanted, found;
  for (std::int64_t n = 1; n <= 9; ++n) {
    const DepthPlan plan = n % 4 == 0 ? DepthPlan::parse("0, 1, 1") : DepthPlan::plain(2);
    wanted.push_back(plainly.run(from_the_start(at), input_of(n, plan)));
    by_graphs.queue(from_the_start(same_at), input_of(n, plan));
    if (n % 3 != 0) continue;
    for (UpdateResult& result : by_graphs.finish()) found.push_back(std::move(result));
    for (const auto& [depth, call] : plain.model().expert_loads().by_depth) {
      CHECK(torch::equal(call.counts_E, graphed.model().expert_loads().by_depth.at(depth).counts_E));
    }
  }
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("update " << i + 1);
    check_same(wanted[i], found[i]);
  }
  check_equal(state_of(plain), state_of(graphed));
  CHECK(spikes.losses() == same_spikes.losses());
  CHECK(counts.captures == 3);  // two plans, and the first with its stream recorded
  CHECK(counts.replays == 9 * 2 - 1);
}

// Update 2 meets a weight that is infinite; update 3 would be fine again.
void check_refusal(const RunConfig& config, std::optional<GraphDevice> graphs) {
  LiveModel live = two_blocks(config);
  SpikeDetector spikes;
  Updater updater(live, config, spikes, std::move(graphs));
  std::int64_t at = 0;
  updater.queue(from_the_start(at), input_of(1, DepthPlan::plain(2)));
  torch::NoGradGuard no_grad;
  const at::Tensor gain = live.parameters().view(live.parameters().master(), live.parameters().entries().back());
  const at::Tensor good = gain.clone();
  const NamedTensors before = state_of(live);
  gain.fill_(std::numeric_limits<float>::infinity());
  {
    at::AutoGradMode gradients(true);
    updater.queue(from_the_start(at), input_of(2, DepthPlan::plain(2)));
    gain.copy_(good);
    check_equal(before, state_of(live));
    updater.queue(from_the_start(at), input_of(3, DepthPlan::plain(2)));
    check_equal(before, state_of(live));
  }
  CHECK_THROWS_WITH(updater.finish(), Catch::Contains("step 2") && Catch::Contains("stopped before the update") &&
                                          Catch::Contains("weights are those of step 1"));
}

}  // namespace

TEST_CASE("a model overfits one batch") {
  for (const char* compute : {"fp32", "bf16"}) {
    const RunConfig config = small_run(compute);
    LiveModel live = two_blocks(config);
    SpikeDetector spikes;
    Updater updater(live, config, spikes);
    UpdateResult result;
    for (std::int64_t n = 1; n <= 150; ++n) result = updater.run(first_rows, {n, DepthPlan::plain(2), 5e-3, 1, 4});
    INFO(compute << " loss " << result.loss);
    CHECK(result.loss < 0.1);
  }
}

TEST_CASE("many micro-batches are one large batch: sums are divided once, by the targets of all") {
  const RunConfig config = small_run("fp32");
  LiveModel one = two_blocks(config), many = two_blocks(config);
  SpikeDetector a, b;
  const DepthPlan plan = DepthPlan::plain(2);
  const UpdateResult whole = Updater(one, config, a).run(first_rows, {1, plan, 1e-3, 1, 8});
  std::int64_t at = 0;
  const UpdateResult parts = Updater(many, config, b).run(from_the_start(at), {1, plan, 1e-3, 8, 1});
  CHECK(whole.targets == 8 * 15);
  CHECK(parts.targets == whole.targets);
  CHECK(whole.targets_by_source == std::vector<std::int64_t>{4 * 15, 4 * 15});
  CHECK(parts.loss == Approx(whole.loss).epsilon(1e-6));
  CHECK(parts.grad_norm == Approx(whole.grad_norm).epsilon(1e-5));
  CHECK(parts.loss_by_source[0] == Approx(whole.loss_by_source[0]).epsilon(1e-6));
  CHECK((whole.loss_by_source[0] + whole.loss_by_source[1]) / 2 == Approx(whole.loss).epsilon(1e-6));
  CHECK(test::max_error(one.parameters().grad(), many.parameters().grad()) < 1e-4 * one.parameters().grad().abs().max().item<double>());
}

TEST_CASE("a batch without a target leaves the weights to decay alone") {
  const RunConfig config = small_run("fp32");
  LiveModel live = two_blocks(config);
  SpikeDetector spikes;
  const auto nothing = [](std::int64_t count) {
    HostBatch batch = rows(0, count);
    batch.targets.assign(batch.targets.size(), -1);
    return batch;
  };
  const UpdateResult result = Updater(live, config, spikes).run(nothing, {1, DepthPlan::plain(2), 1e-3, 2, 2});
  CHECK(result.targets == 0);
  CHECK((result.loss == 0 && result.grad_norm == 0));
  CHECK((std::isnan(result.loss_by_source[0]) && std::isnan(result.loss_by_source[1])));
}

TEST_CASE("clipping bounds the update's gradient, not the one that is reported") {
  RunConfig config = small_run("fp32");
  const auto first_moment = [&](double clip) {
    config.optimizer.clip_norm = clip;
    LiveModel live = two_blocks(config);
    SpikeDetector spikes;
    const UpdateResult result = Updater(live, config, spikes).run(first_rows, {1, DepthPlan::plain(2), 1e-3, 1, 4});
    // After one update the first moment is (1 - beta1) times the gradient that was used.
    double squares = 0;
    const NamedTensors state = live.optimizer().state();
    for (const auto& [name, tensor] : state) {
      if (name.rfind("exp_avg.", 0) == 0) squares += tensor.to(at::kDouble).square().sum().item<double>();
    }
    return std::pair{std::sqrt(squares) / (1 - config.optimizer.betas[0]), result.grad_norm};
  };
  const auto [free, norm] = first_moment(0);
  const auto [clipped, same_norm] = first_moment(norm / 4);
  CHECK(free == Approx(norm).epsilon(1e-5));
  CHECK(clipped == Approx(norm / 4).epsilon(1e-4));
  CHECK(same_norm == norm);
}

TEST_CASE("captured micro-batches give the plain update, bit for bit") {
  check_graphs(small_run("fp32"));
  check_graphs(small_run("bf16"));
  RunConfig unclipped = small_run("fp32");
  unclipped.optimizer.clip_norm = 0;
  check_graphs(unclipped);
}

TEST_CASE("experts count their loads over graphs as they do plainly, and their biases move alike") { check_graphs(with_experts()); }

TEST_CASE("an update that is not finite stops itself and all after it: no weight, moment, step count or expert bias moves") {
  for (const RunConfig& config : {small_run("fp32"), with_experts()}) {
    test::GraphCounts counts;
    check_refusal(config, {});
    check_refusal(config, test::fake_device(counts));
  }
}

TEST_CASE("a skipped spike moves nothing, is remembered, and the run goes on") {
  RunConfig config = with_experts();
  config.optimizer.skip_spikes = true;
  LiveModel live = two_blocks(config);
  // A window so far below what this model starts with that its first loss is a spike.
  SpikeDetector spikes(std::vector<double>(SpikeDetector::kMinimum, 0.1), std::vector<double>(SpikeDetector::kMinimum, 0.1));
  Updater updater(live, config, spikes);
  const NamedTensors before = state_of(live);
  const UpdateResult result = updater.run(first_rows, {1, DepthPlan::plain(2), 1e-3, 1, 4});
  CHECK((result.spike && result.skipped));
  check_equal(before, state_of(live));
  CHECK(spikes.losses().back() == result.loss);
  config.optimizer.skip_spikes = false;
  Updater takes_it(live, config, spikes);
  const UpdateResult taken = takes_it.run(first_rows, {2, DepthPlan::plain(2), 1e-3, 1, 4});
  CHECK((taken.spike && !taken.skipped));
  CHECK_FALSE(torch::equal(before.at("embedding.weight"), live.parameters().masters().at("embedding.weight")));
}

TEST_CASE("a spike is seen, a trend is not, and an earlier spike does not hide the next") {
  SpikeDetector detector;
  for (int i = 0; i < 100; ++i) CHECK_FALSE(detector.observe(3.0 - 0.001 * i + 0.02 * std::sin(i), 1.0 + 0.1 * std::cos(i)));
  CHECK(detector.observe(9.0, 1.0));
  CHECK(detector.observe(9.0, 1.0));
  CHECK(detector.observe(2.9, 20.0));
  CHECK_FALSE(detector.observe(2.9, 1.0));
}

TEST_CASE("no verdict before there is a window, and only the last 128 updates count") {
  SpikeDetector detector;
  for (std::size_t i = 0; i < SpikeDetector::kMinimum; ++i) CHECK_FALSE(detector.observe(i == 10 ? 100.0 : 1.0, 1.0));
  CHECK(detector.observe(100.0, 1.0));
  for (int i = 0; i < 300; ++i) detector.observe(1.0, 1.0);
  CHECK(detector.losses().size() == SpikeDetector::kWindow);
  SpikeDetector restored(detector.losses(), detector.grad_norms());
  CHECK(restored.observe(1.1, 1.0) == detector.observe(1.1, 1.0));
}
