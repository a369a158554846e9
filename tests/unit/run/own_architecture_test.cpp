// The example of docs/adding_an_architecture.md, compiled from the page itself: gated linear attention does all that a built-in mixer does.
#include "own_architecture.h"
#include "depth/growth.h"
#include "models/costs.h"
#include "step/live_model.h"
#include "step/update.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

using namespace meristem;

namespace {

ModelRegistry with_own() {
  ModelRegistry registry = builtin_registry();
#include "own_registration.inc"
  return registry;
}

RunConfig own_run() {
  RunConfig config;
  config.model = test::tiny_config(2);
  config.model.architecture = "gated_linear";
  config.model.options = {{"heads", 2}, {"gate_rank", 4}};
  config.model.depth_plan = "0, (1)x2";
  config.data.sequence_length = 8;
  return config;
}

const DepthPlan kOwnPlan = DepthPlan::parse("0, (1)x2");

// With gates that differ between tokens and rows, so that each part matters.
std::shared_ptr<Model> lively_own(at::ScalarType type) {
  const RunConfig config = own_run();
  auto model = with_own().make(config.model, test::build_of(type, ops::Path::kLibrary), 64);
  const NamedTensors values = nn::initial_values(*model, 1);
  torch::NoGradGuard no_grad;
  for (const ParameterInfo& info : model->parameter_infos()) {
    const bool gate = info.name.find("gate_") != std::string::npos;
    at::Tensor(info.tensor).copy_(info.init_std > 0 ? values.at(info.name) * (gate ? 100 : 5) : values.at(info.name));
  }
  return model;
}

HostBatch counting(std::int64_t sequences) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = 8;
  for (std::int64_t i = 0; i < sequences * 8; ++i) {
    if (i % 8 == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
    batch.inputs.push_back(static_cast<std::int32_t>(i % 61));
    batch.targets.push_back(static_cast<std::int32_t>((i + 1) % 61));
    batch.positions.push_back(static_cast<std::int32_t>(i % 8));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * 8));
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  return batch;
}

Batch joined(const std::vector<Batch>& batches) {
  std::vector<at::Tensor> tokens, targets, positions;
  Batch all;
  for (const Batch& one : batches) {
    tokens.push_back(one.tokens_N);
    targets.push_back(one.targets_N);
    positions.push_back(one.positions_N);
    all.documents.lengths.push_back(one.tokens_N.numel());
  }
  all.tokens_N = torch::cat(tokens);
  all.targets_N = torch::cat(targets);
  all.positions_N = torch::cat(positions);
  return all;
}

}  // namespace

TEST_CASE("the documented example trains and grows like any other architecture") {
  const RunConfig config = own_run();
  const ModelRegistry registry = with_own();
  LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
  SpikeDetector spikes;
  Updater updater(live, config, spikes);
  std::vector<double> losses;
  for (std::int64_t n = 1; n <= 30; ++n) losses.push_back(updater.run(counting, {n, kOwnPlan, 3e-3, 1, 4}).loss);
  CHECK(losses.back() < 0.5 * losses.front());
  const NamedTensors masters = live.parameters().masters();
  const auto grown = live.grown(grow_map(GrowthOperator::kAppend, 2, 1));
  for (const char* part : {"gate_up.weight", "input.weight", "head_norm.weight"}) {
    CHECK(torch::equal(grown->parameters().masters().at(std::string("blocks.2.gated_linear.") + part),
                       masters.at(std::string("blocks.1.gated_linear.") + part)));
  }
}

TEST_CASE("the documented example trains on strands") {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const ModelRegistry registry = with_own();
  at::Tensor gradients[2];
  for (const auto work : {ThreadWork::kOperators, ThreadWork::kSequences}) {
    RunConfig config = own_run();
    config.parallel.threads = work;
    LiveModel live(config, Timeline(config), registry, at::kCPU, 2, true);
    SpikeDetector spikes;
    Updater updater(live, config, spikes);
    const bool strands = work == ThreadWork::kSequences;
    CHECK(updater.strands_for(4) == (strands ? 2 : 1));
    updater.run(counting, {1, kOwnPlan, 3e-3, 1, 4});
    gradients[strands ? 1 : 0] = live.parameters().grad().clone();
  }
  CHECK(test::max_error(gradients[0], gradients[1]) < 1e-5 * gradients[0].abs().max().item<double>());
  at::set_num_threads(threads);
}

TEST_CASE("the documented example: logits with a state equal those of whole texts, whatever the pieces; no keys and values are kept") {
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kDouble, 1e-12}}) {
    const auto model = lively_own(type);
    torch::NoGradGuard no_grad;
    const Batch batch = test::random_batch(1, 45, 61, 1);  // two whole chunks and a part
    const at::Tensor whole = model->logits(batch, kOwnPlan);
    for (const std::vector<std::int64_t>& pieces : {std::vector<std::int64_t>(45, 1), {20, 1, 1, 17, 6}, {45}}) {
      DecodeCache cache;
      std::int64_t at = 0;
      for (const std::int64_t count : pieces) {
        const at::Tensor last = model->decode(batch.tokens_N.narrow(0, at, count), kOwnPlan, cache);
        at += count;
        CHECK(test::max_error(last, whole[at - 1]) < tolerance * whole.abs().max().item<double>());
      }
      REQUIRE(cache.calls.size() == 3);
      for (const auto& mixers : cache.calls) {
        REQUIRE(mixers.front().size() == 1);
        CHECK(mixers.front()[0].numel() == 32 * 16);  // heads x K x K, however long the text
        CHECK(mixers.back().empty());
      }
    }
  }
}

TEST_CASE("the documented example: several sequences are decoded as each alone") {
  torch::NoGradGuard no_grad;
  const auto model = lively_own(at::kDouble);
  std::vector<DecodeCache> caches(3);
  std::vector<DecodeCache*> pointers;
  for (DecodeCache& cache : caches) pointers.push_back(&cache);
  const std::vector<at::Tensor> texts{test::random_batch(1, 20, 61, 1).tokens_N, test::random_batch(1, 33, 61, 2).tokens_N,
                                      test::random_batch(1, 5, 61, 3).tokens_N};
  std::vector<at::Tensor> next;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    model->decode(texts[i].narrow(0, 0, texts[i].size(0) - 1), kOwnPlan, caches[i]);
    next.push_back(texts[i].narrow(0, texts[i].size(0) - 1, 1));
  }
  const at::Tensor together = model->decode(at::cat(next), {1, 1, 1}, kOwnPlan, pointers);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    DecodeCache cache;
    CHECK(test::max_error(together[static_cast<std::int64_t>(i)], model->decode(texts[i], kOwnPlan, cache)) < 1e-12);
  }
}

TEST_CASE("the documented example: no token sees a later one, bit for bit, and documents are as if alone") {
  const auto model = lively_own(at::kDouble);
  torch::NoGradGuard no_grad;
  Batch batch = test::random_batch(1, 40, 61, 2);
  const at::Tensor before = model->logits(batch, kOwnPlan);
  batch.tokens_N[20] = (batch.tokens_N[20].item<int>() + 1) % 61;
  const at::Tensor after = model->logits(batch, kOwnPlan);
  CHECK(torch::equal(before.narrow(0, 0, 20), after.narrow(0, 0, 20)));
  for (std::int64_t t = 20; t < 40; ++t) CHECK_FALSE(torch::equal(before[t], after[t]));

  std::vector<Batch> alone;
  std::vector<at::Tensor> expected;
  for (const std::int64_t length : {5, 1, 1, 30, 3}) {
    alone.push_back(test::random_batch(1, length, 61, static_cast<std::uint64_t>(10 + alone.size())));
    expected.push_back(model->logits(alone.back(), kOwnPlan));
  }
  Batch packed = joined(alone);
  const at::Tensor together = model->logits(packed, kOwnPlan);
  CHECK(test::max_error(together, torch::cat(expected)) < 1e-12 * together.abs().max().item<double>());
  // As a captured graph runs it, with the documents' offsets on the device alone.
  packed.documents = {{}, torch::tensor({0, 5, 6, 7, 37, 40, 40, 40}, torch::kInt)};
  CHECK(torch::equal(model->logits(packed, kOwnPlan), together));
}

TEST_CASE("the documented example: gradients agree with finite differences in fp64") {
  const auto model = lively_own(at::kDouble);
  const Batch batch = joined({test::random_batch(1, 19, 61, 3), test::random_batch(1, 4, 61, 4)});
  model->loss(batch, kOwnPlan).loss_sum.backward();
  torch::NoGradGuard no_grad;
  for (const ParameterInfo& info : model->parameter_infos()) {
    if (info.name.find("blocks.1.gated_linear") != 0) continue;
    const at::Tensor direction = torch::randn(info.tensor.sizes(), torch::kDouble), weight = info.tensor;
    const double h = 1e-6, slope = (info.tensor.grad() * direction).sum().item<double>();
    const auto loss_at = [&](double step) {
      weight.add_(direction, step);
      const double loss = model->loss(batch, kOwnPlan).loss_sum.item<double>();
      weight.add_(direction, -step);
      return loss;
    };
    INFO(info.name);
    CHECK(std::abs(slope) > 1e-3);
    CHECK((loss_at(h) - loss_at(-h)) / (2 * h) == Approx(slope).epsilon(1e-5));
  }
}

TEST_CASE("the documented example is counted: parameters, FLOPs, a state in place of keys and values, memory") {
  const RunConfig config = own_run();
  const ModelRegistry registry = with_own();
  RunConfig plain = config;
  plain.model.architecture = "decoder";
  plain.model.options = {};
  const StageCost own = stage_cost(config, registry, {0, 0, 2, kOwnPlan, {}}),
                  decoder = stage_cost(plain, registry, {0, 0, 2, kOwnPlan, {}});
  const std::int64_t attention = 32 + 32 * 64 + 32 * 32, linear = 32 + 32 * 128 + 2 * 32 * 4 + 16 + 32 * 32;
  CHECK(own.parameters.total - decoder.parameters.total == 2 * (linear - attention));
  CHECK(own.flops.scores == 3 * (2 * 16 * 32 + 4 * 16 * 32));
  CHECK(own.kv_bytes_per_token == 0);
  CHECK(own.state_bytes_per_sequence == 3 * 4 * 32 * 16);
  CHECK(decoder.kv_bytes_per_token > 0);
  CHECK(decoder.state_bytes_per_sequence == 0);
  CHECK(own.memory.activations > 0);
}

TEST_CASE("an option that the architecture does not read is refused by name") {
  RunConfig config = own_run();
  config.model.options = {{"head", 2}};
  CHECK_THROWS_WITH(with_own().make(config.model, {}, 8), Catch::Contains("model.options.head: unknown to the architecture gated_linear") &&
                                                              Catch::Contains("allowed: heads, gate_rank") &&
                                                              Catch::Contains("did you mean heads?"));
  config.model.architecture = "decoder";
  CHECK_THROWS_WITH(with_own().make(config.model, {}, 8), Catch::Contains("allowed: none"));
  config.model = own_run().model;
  config.model.options = {{"heads", 3}};
  CHECK_THROWS_WITH(with_own().make(config.model, {}, 8), Catch::Contains("heads must divide model.width"));
}
