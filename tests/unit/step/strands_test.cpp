// Updates by strands: each sums the gradients of its own sequences, to the bit what one thread sums; the update is of their sum.
#include <atomic>

#include <omp.h>

#include "core/errors.h"
#include "models/costs.h"
#include "ops/strands.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/tolerance.h"
#include "support/variants.h"
#include "unit/step/small_run.h"

using namespace meristem;

namespace {

const ModelRegistry kBuiltin = builtin_registry();

class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

RunConfig run_of(const ModelConfig& model, const std::string& compute, ThreadWork threads) {
  RunConfig config = test::small_run(compute);
  config.model = model;
  config.model.vocab_size = 64;
  config.parallel.threads = threads;
  return config;
}

// Sequences [from, until), whatever is asked for.
NextBatch these(std::int64_t from, std::int64_t until) {
  return [=](std::int64_t count) {
    REQUIRE(count == until - from);
    return test::rows(from, count);
  };
}

struct Updated {
  at::Tensor gradients, weights, loads;
  UpdateResult result;
};

// One update of a fresh model by sequences [from, until).
Updated updated(const RunConfig& config, const DepthPlan& plan, std::int64_t from, std::int64_t until, int threads) {
  const Threads with(threads);
  LiveModel live(config, Timeline(config), kBuiltin, at::kCPU, config.model.blocks, true);
  SpikeDetector spikes;
  Updater updater(live, config, spikes);
  Updated out;
  out.result = updater.run(these(from, until), {1, plan, 1e-3, 1, until - from, /*record_stream=*/true});
  out.gradients = live.parameters().grad().clone();
  out.weights = live.parameters().master().clone();
  out.loads = live.model().expert_counts();
  return out;
}

}  // namespace

TEST_CASE("strands sum what one thread makes of each share, to the bit") {
  for (const char* compute : {"fp32", "bf16"}) {
    for (const test::Variant& variant : test::variants()) {
      INFO(compute << ", " << variant.name);
      const RunConfig config = run_of(variant.config, compute, ThreadWork::kSequences);
      const Updated two = updated(config, variant.plan, 0, 6, 2), again = updated(config, variant.plan, 0, 6, 2),
                    first = updated(config, variant.plan, 0, 3, 1), second = updated(config, variant.plan, 3, 6, 1);
      CHECK(torch::equal(two.gradients, first.gradients + second.gradients));
      CHECK(first.gradients.abs().max().item<float>() > 0);
      CHECK(two.result.targets == first.result.targets + second.result.targets);
      const auto total = [](const UpdateResult& result) { return result.loss * static_cast<double>(result.targets); };
      CHECK(total(two.result) == Approx(total(first.result) + total(second.result)).epsilon(1e-12));
      for (std::size_t i = 0; i < two.result.stream_rms.size(); ++i) {
        const double a = first.result.stream_rms[i], b = second.result.stream_rms[i];
        CHECK(two.result.stream_rms[i] == Approx(std::sqrt((a * a + b * b) / 2)).epsilon(std::string(compute) == "fp32" ? 1e-6 : 1e-2));
      }
      if (two.loads.defined()) CHECK(torch::equal(two.loads, first.loads + second.loads));
      CHECK(torch::equal(two.weights, again.weights));
      CHECK(two.result.loss == again.result.loss);
      CHECK(two.result.grad_norm == again.result.grad_norm);
    }
  }
}

TEST_CASE("strands with many micro-batches, calls that run again, truncated loops") {
  ModelConfig looped = test::tiny_config(3);
  looped.depth_plan = "0, (1-2)x3";
  looped.loop.backprop_last = 2;
  RunConfig config = run_of(looped, "fp32", ThreadWork::kSequences), plain = run_of(looped, "fp32", ThreadWork::kOperators);
  config.memory.activation_checkpointing.every = plain.memory.activation_checkpointing.every = 2;
  const DepthPlan plan = looped.depth_plan.plan;
  const Threads with(2);
  LiveModel strands(config, Timeline(config), kBuiltin, at::kCPU, 3, true), operators(plain, Timeline(plain), kBuiltin, at::kCPU, 3, true);
  SpikeDetector a, b;
  Updater by_strands(strands, config, a), by_operators(operators, plain, b);
  CHECK(by_strands.strands_for(4) == 2);
  CHECK(by_operators.strands_for(4) == 1);
  for (std::int64_t n = 1; n <= 3; ++n) {
    std::int64_t at = 0, same_at = 0;
    const auto found = by_strands.run([&](std::int64_t count) { return test::rows((at += count) - count, count); }, {n, plan, 1e-3, 3, 4});
    const auto wanted =
        by_operators.run([&](std::int64_t count) { return test::rows((same_at += count) - count, count); }, {n, plan, 1e-3, 3, 4});
    CHECK(found.targets == wanted.targets);
    CHECK(found.loss == Approx(wanted.loss).epsilon(1e-6));
    CHECK(found.grad_norm == Approx(wanted.grad_norm).epsilon(1e-5));
  }
  CHECK(test::max_error(strands.parameters().grad(), operators.parameters().grad()) <
        1e-4 * operators.parameters().grad().abs().max().item<double>());
}

TEST_CASE("strands leave nothing behind of an update that did not come to its end") {
  const RunConfig config = run_of(test::tiny_config(2), "fp32", ThreadWork::kSequences);
  const DepthPlan plan = DepthPlan::plain(2);
  const Updated wanted = updated(config, plan, 0, 4, 2);
  const Threads with(2);
  LiveModel live(config, Timeline(config), kBuiltin, at::kCPU, 2, true);
  SpikeDetector spikes;
  Updater updater(live, config, spikes);
  int given = 0;
  const NextBatch breaks = [&](std::int64_t count) {
    if (given++ == 1) throw InputError("no more rows");
    return test::rows(7, count);
  };
  CHECK_THROWS_AS(updater.run(breaks, {1, plan, 1e-3, 2, 4}), InputError);
  const UpdateResult result = updater.run(these(0, 4), {1, plan, 1e-3, 1, 4});
  CHECK(result.loss == wanted.result.loss);
  CHECK(torch::equal(live.parameters().master(), wanted.weights));
}

TEST_CASE("strands are for micro-batches that threads share evenly") {
  RunConfig config = run_of(test::tiny_config(2), "fp32", ThreadWork::kAuto);
  config.data.sequence_length = 256;
  ModelBuild build;
  build.placement.device = at::kMeta;
  const auto strands = [&](std::int64_t sequences, std::int64_t threads) {
    const auto model = kBuiltin.make(config.model, build, config.data.sequence_length);
    return strands_of(config, *model, sequences, threads);
  };
  CHECK(strands(4, 1) == 1);
  CHECK(strands(4, 2) == 2);
  CHECK(strands(3, 2) == 1);   // 2 + 1
  CHECK(strands(11, 2) == 2);  // 6 + 5
  CHECK(strands(1, 2) == 1);
  CHECK(strands(16, 16) == 16);
  config.data.sequence_length = 100;
  CHECK(strands(4, 2) == 1);  // too few tokens
  CHECK(strands(8, 2) == 2);
  config.memory.activation_checkpointing.every = 1;
  CHECK(strands(8, 2) == 1);
  config.parallel.threads = ThreadWork::kSequences;
  CHECK(strands(8, 2) == 2);
  CHECK(strands(4, 2) == 2);
  CHECK_THROWS_WITH(strands(3, 2),
                    "parallel.threads: found sequences; allowed: auto or operators, since 2 threads cannot share a "
                    "micro-batch of 3 (batch.micro_sequences) evenly");
  config.parallel.threads = ThreadWork::kOperators;
  CHECK(strands(8, 2) == 1);
  config.parallel.threads = ThreadWork::kAuto;
  config.memory = {};
  config.model.vocab_size = 1 << 16;  // gradients would outweigh what is kept for backward
  CHECK(strands(8, 2) == 1);
}

TEST_CASE("strands run at the same time, each alone on its thread") {
  const Threads with(2);
  const std::vector<at::Tensor> gradients{torch::ones({100}), torch::full({100}, 2.0f)};
  std::vector<int> threads(2, -1), of_omp(2, -1), strands(2, -1), learns(2, -1);
  std::vector<at::Tensor> places(2);
  const at::Tensor sum = gradients[0].narrow(0, 10, 6).view({2, 3});
  const auto meet = [&] {
    std::atomic<int> here = 0;
    ops::on_strands(gradients, [&](std::int64_t s) {
      ++here;
      while (here < 2) {
      }  // both are at work at the same time
      strands[static_cast<std::size_t>(s)] = static_cast<int>(ops::strand());
      learns[static_cast<std::size_t>(s)] = at::GradMode::is_enabled() ? 1 : 0;
      // A thread's first parallel_for must not bring its others back.
      at::parallel_for(0, 2, 1, [&](std::int64_t, std::int64_t) {});
      threads[static_cast<std::size_t>(s)] = at::get_num_threads();
      of_omp[static_cast<std::size_t>(s)] = omp_get_thread_num();
      places[static_cast<std::size_t>(s)] = ops::of_strand(sum);
    });
  };
  meet();
  CHECK(threads == std::vector<int>{1, 1});
  CHECK(strands == std::vector<int>{0, 1});
  CHECK(learns == std::vector<int>{1, 1});
  CHECK(of_omp[0] != of_omp[1]);
  CHECK(places[0].data_ptr() == sum.data_ptr());
  CHECK(places[1].data_ptr<float>() == gradients[1].data_ptr<float>() + 10);
  CHECK(places[1].sizes() == sum.sizes());
  CHECK(at::get_num_threads() == 2);
  CHECK(ops::strand() == 0);
  CHECK_THROWS_AS(ops::on_strands(gradients,
                                  [](std::int64_t s) {
                                    if (s == 1) throw InputError("strand 1");
                                  }),
                  InputError);
  CHECK(ops::strand() == 0);
  meet();
  ops::join_strands(gradients);
  CHECK(torch::equal(gradients[0], torch::full({100}, 3.0f)));
  CHECK(torch::equal(gradients[1], torch::zeros({100})));
}
