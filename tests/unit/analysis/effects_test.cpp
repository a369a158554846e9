#include "analysis/effects.h"

#include "core/errors.h"
#include "support/catch.h"
#include "unit/analysis/subjects.h"

using namespace meristem;

namespace {

const std::vector<std::vector<std::int64_t>> kBoundaries{{8, 24}, {16}};

Effects measure(const Subject& subject, Effect effect) {
  Work work;
  return measure_effects(subject, effect, test::random_texts(2, 40, 7), kBoundaries, work);
}

}  // namespace

TEST_CASE("a block that adds nothing has no effect") {
  const auto model = test::fp32_model(test::tiny_config(4));
  test::scale_mixer(*model, 1, "attention", 0);
  test::scale_mixer(*model, 2, "attention", 0);
  test::scale_mixer(*model, 2, "feed_forward", 0);
  const Subject subject{*model, DepthPlan::plain(4), 61, at::kCPU};
  for (const Effect effect : {Effect::kFuture, Effect::kLocal}) {
    const Effects found = measure(subject, effect);
    REQUIRE(found.changes.values.sizes() == at::IntArrayRef({2, 4, 4}));
    CHECK(test::largest(found.changes.values.select(1, 2)) < 1e-5);
    CHECK(test::largest(found.changes.values.select(1, 0)) > 1e-3);
    CHECK(test::largest(found.changes.values.select(1, 1)) > 1e-3);
    CHECK(test::largest(found.changes.variants.at("attention").select(1, 1)) < 1e-5);
    CHECK(test::largest(found.changes.variants.at("feed_forward").select(1, 1)) > 1e-3);
    if (effect == Effect::kFuture) {
      CHECK(test::largest(found.outputs.values.select(1, 2)) < 1e-5);
      CHECK(test::largest(found.outputs.values.select(1, 1)) > 1e-3);
    }
    // Earlier calls and the call itself cannot change.
    for (std::int64_t s = 0; s < 4; ++s) {
      for (std::int64_t l = 0; l < 4; ++l) CHECK(found.changes.values[0][s][l].isnan().item<bool>() == (l <= s));
    }
  }
}

TEST_CASE("a skip is a stream put in by hand") {
  const torch::NoGradGuard no_grad;
  const auto model = test::fp32_model(test::tiny_config(3));
  const Subject subject{*model, DepthPlan::plain(3), 61, at::kCPU};
  const TokenIds text = test::random_texts(1, 24, 9).front();
  const Batch batch = batch_of(text, 1, at::kCPU);
  const Recording truth = record(subject, batch);
  struct PutIn : nn::CallObserver {
    at::Tensor stream, output, input;
    at::Tensor entering(const nn::CallContext& call, const at::Tensor& h) override { return call.depth_index == 1 ? stream : h; }
    at::Tensor leaving(const nn::CallContext& call, const at::Tensor& in, const at::Tensor& out) override {
      if (call.depth_index == 2) {
        input = in;
        output = out;
      }
      return out;
    }
  } put_in;
  const std::int64_t boundary = 16;
  put_in.stream = truth.streams[1].clone();
  put_in.stream.slice(0, 1, boundary).copy_(truth.streams[0].slice(0, 1, boundary));
  at::Tensor stream;
  {
    const Observing observing(*model, &put_in);
    stream = model->stream(batch, subject.plan);
  }
  const at::Tensor before = truth.calls[2].added().slice(0, boundary), after = (put_in.output - put_in.input).slice(0, boundary);
  const double expected = ((before - after).norm(2, 1) / before.norm(2, 1)).max().item<double>();
  const at::Tensor p = model->read_out(truth.streams[3]).softmax(1), q = model->read_out(stream).softmax(1);
  Work work;
  const Effects found = measure_effects(subject, Effect::kFuture, {text}, {{boundary}}, work);
  CHECK(found.changes.values[0][0][2].item<double>() == Approx(expected).epsilon(1e-4));
  CHECK(found.outputs.values[0][0].item<double>() == Approx((p - q).slice(0, boundary).norm(2, 1).max().item<double>()).epsilon(1e-4));
}

TEST_CASE("effects in every architecture") {
  for (const test::Variant& variant : test::variants()) {
    INFO(variant.name);
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, ops::Path::kFused));
    const Subject subject{*model, variant.plan, 61, at::kCPU};
    for (const Effect effect : {Effect::kFuture, Effect::kLocal}) {
      const Effects found = measure(subject, effect);
      const at::Tensor later = found.changes.values[0][0].slice(0, 1);
      CHECK(later.isfinite().all().item<bool>());
      CHECK(test::largest(later) > 0);
      CHECK(found.changes.variants.size() == subject.mixers().size());
    }
  }
}

TEST_CASE("boundaries of texts") {
  for (std::size_t text = 0; text < 20; ++text) {
    const auto found = boundaries_of(100, text, 1);
    CHECK(found.size() == 4);
    CHECK(found == boundaries_of(100, text, 1));
    for (const std::int64_t t : found) CHECK((t % 8 == 0 && t >= 8 && t < 96));
  }
  CHECK(boundaries_of(kLeastForBoundary, 0, 1) == std::vector<std::int64_t>{8});
  CHECK(boundaries_of(kLeastForBoundary - 1, 0, 1).empty());
  CHECK(boundaries_of(100, 0, 1) != boundaries_of(100, 1, 1));
}

TEST_CASE("texts are refused by their number") {
  CHECK_NOTHROW(check_texts({{1, 2, 3}}, 61, 3));
  CHECK_THROWS_WITH(check_texts({{1, 2, 3}, {1}}, 61, 2), Catch::Contains("text 1: found 1 tokens; allowed: at least 2"));
  CHECK_THROWS_WITH(check_texts({{1, 61}}, 61, 2), Catch::Contains("text 0: token id 61 is outside the vocabulary of 61"));
}
