// The step made of graphs, with graphs that are their captured bodies: to the bit what the plain step is, known later.
#include "train/stepper.h"

#include <cmath>
#include <limits>

#include "core/errors.h"
#include "support/catch.h"
#include "unit/train/graph_fakes.h"
#include "unit/train/late_copies.h"
#include "unit/train/small_run.h"

using namespace meristem;
using test::rows;

namespace {

RunConfig two_sources(const std::string& compute) {
  RunConfig config = test::small_run(compute);
  for (const char* name : {"a", "b"}) config.data.sources.emplace_back(name, SourceConfig{});
  return config;
}

GraphDevice fake_device(test::GraphCounts& counts) { return {at::kCPU, test::fake_capture(counts), std::make_unique<test::LateCopies>()}; }

// Batches of a run of its own.
NextBatch from_the_start(std::int64_t& at) {
  return [&at](std::int64_t count) { return rows((at += count) - count, count); };
}

StepInput input_of(std::int64_t number, const DepthPlan& plan) {
  return {number, plan, 1e-3 * static_cast<double>(number), 2, 2, number % 3 == 0};
}

void check_same(const StepResult& plain, const StepResult& graphed) {
  CHECK(plain.loss == graphed.loss);
  CHECK(plain.grad_norm == graphed.grad_norm);
  CHECK(plain.targets == graphed.targets);
  CHECK(plain.targets_by_source == graphed.targets_by_source);
  CHECK(plain.loss_by_source == graphed.loss_by_source);
  CHECK(plain.stream_rms == graphed.stream_rms);
}

RunConfig with_experts() {
  RunConfig config = two_sources("fp32");
  config.model.feed_forward.kind = "experts";
  config.model.feed_forward.inner = 32;
  config.model.feed_forward.count = 6;
  config.model.feed_forward.active = 2;
  config.model.feed_forward.router_dim = 16;
  config.model.feed_forward.balance_rate = 1e-2;
  return config;
}

// Nine updates, plainly and by graphs; plans change on the way, and results are asked for every third update.
void check_run(const RunConfig& config) {
  const ModelRegistry registry = builtin_registry();
  LiveModel plain(config, registry, at::kCPU, 2, true), graphed(config, registry, at::kCPU, 2, true);
  test::GraphCounts counts;
  GraphStep step(graphed, config, fake_device(counts));
  SpikeDetector spikes, same_spikes;
  std::int64_t at = 0, same_at = 0;
  std::vector<StepResult> wanted, found;
  for (std::int64_t n = 1; n <= 9; ++n) {
    const DepthPlan plan = n % 4 == 0 ? DepthPlan::parse("0, 1, 1") : DepthPlan::plain(2);
    wanted.push_back(train_step(plain, config.optimizer, at::kCPU, 2, from_the_start(at), input_of(n, plan), spikes));
    step.queue(from_the_start(same_at), input_of(n, plan));
    if (n % 3 != 0) continue;
    for (StepResult& result : step.finish(same_spikes)) found.push_back(std::move(result));
    for (const auto& [depth, call] : plain.model().expert_loads().by_depth) {
      CHECK(torch::equal(call.counts_E, graphed.model().expert_loads().by_depth.at(depth).counts_E));
    }
  }
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("update " << i + 1);
    check_same(wanted[i], found[i]);
  }
  CHECK(torch::equal(plain.parameters().master(), graphed.parameters().master()));
  CHECK(spikes.losses() == same_spikes.losses());
  CHECK(counts.captures == 3);  // two plans, and the first with its stream recorded
  CHECK(counts.replays == 9 * 2 - 1);
}

}  // namespace

TEST_CASE("a step made of graphs is the plain step, bit for bit") {
  check_run(two_sources("fp32"));
  check_run(two_sources("bf16"));
  RunConfig unclipped = two_sources("fp32");
  unclipped.optimizer.clip_norm = 0;
  check_run(unclipped);
}

TEST_CASE("experts count their loads over graphs as they do over plain steps, and their biases move alike") { check_run(with_experts()); }

TEST_CASE("a step that is not finite stops itself and all after it, and is named when results are asked for") {
  const RunConfig config = two_sources("fp32");
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, registry, at::kCPU, 2, true);
  test::GraphCounts counts;
  GraphStep step(live, config, fake_device(counts));
  std::int64_t at = 0;
  SpikeDetector spikes;
  step.queue(from_the_start(at), input_of(1, DepthPlan::plain(2)));
  const at::Tensor gain = live.parameters().view(live.parameters().master(), live.parameters().entries().back());
  const at::Tensor good = gain.clone();
  {
    torch::NoGradGuard no_grad;
    gain.fill_(std::numeric_limits<float>::infinity());
  }
  const at::Tensor before = live.parameters().master().clone();
  step.queue(from_the_start(at), input_of(2, DepthPlan::plain(2)));
  CHECK(torch::equal(before, live.parameters().master()));
  {
    torch::NoGradGuard no_grad;
    gain.copy_(good);
  }
  const at::Tensor restored = live.parameters().master().clone();
  step.queue(from_the_start(at), input_of(3, DepthPlan::plain(2)));
  CHECK(torch::equal(restored, live.parameters().master()));
  CHECK_THROWS_WITH(step.finish(spikes), Catch::Contains("step 2") && Catch::Contains("weights are those of step 1"));
}

TEST_CASE("kernels.graph: off, on and auto") {
  const auto yes = [](std::string_view) { return true; };
  const auto no = [](std::string_view) { return false; };
  const at::Device gpu(at::kCUDA, 0);
  ops::Paths paths;
  paths.adamw = ops::Path::kLibrary;
  RunConfig config = two_sources("bf16");
  config.data.document_mask = false;
  const auto graph = [&](const std::string& asked, at::Device device, bool proven) {
    config.kernels.graph = asked;
    return uses_graph(config, device, paths, proven ? ops::CudaKernels{yes, yes} : ops::CudaKernels{yes, no});
  };
  CHECK_FALSE(graph("off", gpu, true));
  CHECK(graph("on", gpu, false));
  CHECK(graph("auto", gpu, true));
  CHECK_FALSE(graph("auto", gpu, false));
  CHECK_FALSE(graph("auto", at::kCPU, true));
  CHECK_THROWS_WITH(graph("on", at::kCPU, true), "kernels.graph: on cannot run: this run computes on the CPU; allowed: off, auto");
  config.optimizer.skip_spikes = true;
  CHECK_FALSE(graph("auto", gpu, true));
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("optimizer.skip_spikes"));
  config.optimizer.skip_spikes = false;
  config.data.document_mask = true;
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("data.document_mask needs kernels.attention: fused"));
  paths.attention = ops::Path::kFused;
  CHECK(graph("on", gpu, true));
  config.model.feed_forward.kind = "experts";
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("experts need kernels.experts: fused"));
}

TEST_CASE("a stepper without graphs knows each result at once") {
  const RunConfig config = two_sources("fp32");
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, registry, at::kCPU, 2, true);
  Stepper stepper(config, at::kCPU, live.paths());
  std::int64_t at = 0;
  SpikeDetector spikes;
  CHECK_FALSE(stepper.uses_graphs());
  CHECK(stepper.step(live, from_the_start(at), input_of(1, DepthPlan::plain(2)), spikes).size() == 1);
  CHECK(stepper.finish(spikes).empty());
}
