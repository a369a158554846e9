// Fine-tuning on masked, packed documents: what is not trained on leaves no trace in the gradient, and neighbours none in the logits.
#include <cmath>

#include "core/counter_rng.h"
#include "data/batch.h"
#include "run/stopping.h"
#include "step/batches.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

constexpr std::int64_t kVocab = 61;

std::vector<std::int32_t> random_ids(std::uint64_t seed, std::size_t count) {
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int32_t>(random_u64(seed, i) % kVocab);
  return ids;
}

// One row of length 24 with these documents.
Batch row_of(const Documents& documents, const std::string& mask) {
  const TempDir folder;
  write_shard(folder / "x", documents, kVocab);
  if (!mask.empty()) write_mask(folder / "x", mask);
  const TokenSource source = TokenSource::open(folder / "x");
  std::vector<DocumentSlice> slices;
  for (std::size_t d = 0; d < documents.size(); ++d)
    slices.push_back({static_cast<std::int64_t>(d), 0, static_cast<std::int64_t>(documents[d].size())});
  HostBatch host;
  append_row(source, slices, {24, true, kVocab}, 0, host);
  return to_device(host, at::kCPU).batch;
}

NamedTensors gradients_of(Model& model, const Batch& batch) {
  for (const ParameterInfo& info : model.parameter_infos()) at::Tensor(info.tensor).mutable_grad() = at::Tensor();
  model.loss(batch, DepthPlan::plain(3)).loss_sum.backward();
  NamedTensors out;
  for (const ParameterInfo& info : model.parameter_infos()) out.add(info.name, info.tensor.grad().clone());
  return out;
}

bool equal(const NamedTensors& a, const NamedTensors& b) {
  for (const auto& [name, grad] : a) {
    if (!torch::equal(grad, b.at(name))) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("tokens that are not trained on contribute nothing to the gradient, whatever they are") {
  for (const auto path : {ops::Path::kReference, ops::Path::kLibrary, ops::Path::kFused}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto model = make_model(tiny_config(), build_of(type, path));
      // A prompt, an answer, and a second prompt that nothing answers; then a document of which nothing is trained on.
      const std::vector<std::int32_t> asked = random_ids(1, 15);
      std::string mask(24, '\0');
      for (std::size_t i = 6; i < 10; ++i) mask[i] = 1;
      Documents one{asked, random_ids(2, 9)}, other = one;
      for (std::size_t i = 10; i < 15; ++i) other[0][i] = (other[0][i] + 1 + static_cast<std::int32_t>(i)) % kVocab;
      other[1] = random_ids(3, 9);
      REQUIRE(one != other);
      CHECK(equal(gradients_of(*model, row_of(one, mask)), gradients_of(*model, row_of(other, mask))));
      // Without the mask they matter.
      CHECK_FALSE(equal(gradients_of(*model, row_of(one, "")), gradients_of(*model, row_of(other, ""))));
      // Nor does it matter what stands for "no target".
      Batch marked = row_of(one, mask);
      const NamedTensors before = gradients_of(*model, marked);
      marked.targets_N = at::where(marked.targets_N < 0, at::full_like(marked.targets_N, -1000), marked.targets_N);
      CHECK(equal(before, gradients_of(*model, marked)));
    }
  }
}

TEST_CASE("a packed document's logits are those of the document alone, and no neighbour changes them") {
  const Documents documents{random_ids(4, 9), random_ids(5, 4), random_ids(6, 8)};
  for (const auto path : {ops::Path::kReference, ops::Path::kLibrary, ops::Path::kFused}) {
    const auto model = make_model(tiny_config(), build_of(at::kFloat, path));
    torch::NoGradGuard no_grad;
    const DepthPlan plan = DepthPlan::parse("0, (1)x3, 2");
    const at::Tensor packed = model->logits(row_of(documents, ""), plan);
    std::int64_t begin = 0;
    for (std::size_t d = 0; d < documents.size(); ++d) {
      const auto length = static_cast<std::int64_t>(documents[d].size());
      const at::Tensor alone = model->logits(row_of({documents[d]}, ""), plan).narrow(0, 0, length);
      CHECK(max_error(packed.narrow(0, begin, length), alone) < 1e-5);
      Documents changed = documents;
      for (std::size_t other = 0; other < documents.size(); ++other) {
        if (other != d) changed[other] = random_ids(10 + other, documents[other].size());
      }
      const at::Tensor beside = model->logits(row_of(changed, ""), plan);
      CHECK(torch::equal(beside.narrow(0, begin, length), packed.narrow(0, begin, length)));
      CHECK_FALSE(torch::equal(beside, packed));
      begin += length;
    }
  }
}

TEST_CASE("a run stops after `patience` validations that are not better by min_delta") {
  RunConfig config;
  config.early_stop = EarlyStopConfig{2, "", 0.1};
  TrainState state;
  const auto observe = [&](std::int64_t step, double loss) { return observe_validation(*config.early_stop, step, loss, state.early_stop); };
  CHECK(observe(10, 3.0));
  CHECK(observe(20, 2.5));
  CHECK_FALSE(observe(30, 2.45));  // better, but by less than min_delta
  CHECK_FALSE(stops_early(config, state));
  CHECK(observe(40, 2.3));
  CHECK_FALSE(observe(50, 2.3));
  CHECK_FALSE(stops_early(config, state));
  CHECK_FALSE(observe(60, 9.0));
  CHECK(stops_early(config, state));
  CHECK(state.early_stop == EarlyStopState{2.3, 40, 2});
  CHECK_THROWS_AS(observe(70, std::nan("")), NonFiniteError);
  config.early_stop.reset();
  CHECK_FALSE(stops_early(config, state));
}

TEST_CASE("the watched loss is the named source's, else the mean") {
  const std::vector<ValidationLoss> losses{{"a", 2.0, 10}, {"b", 4.0, 1000}};
  CHECK(watched_loss({1, "b", 0}, losses) == 4.0);
  CHECK(watched_loss({1, "", 0}, losses) == 3.0);
}
