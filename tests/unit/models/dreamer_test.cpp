// What a Dreamer-style model is equal to where its parts are off.
#include <cmath>
#include <string>

#include "support/catch.h"
#include "support/operator_calls.h"
#include "support/tolerance.h"
#include "support/variants.h"

using namespace meristem;
using ops::Path;

namespace {

// Copies what both models hold under one name.
void copy_weights(const Model& from, const Model& to) {
  torch::NoGradGuard no_grad;
  NamedTensors values;
  for (const ParameterInfo& info : from.parameter_infos()) values.add(info.name, info.tensor);
  for (const ParameterInfo& info : to.parameter_infos()) {
    if (values.contains(info.name)) at::Tensor(info.tensor).copy_(values.at(info.name));
  }
}

NamedTensors gradients_of(Model& model, const Batch& batch, const DepthPlan& plan) {
  model.loss(batch, plan).loss_sum.backward();
  NamedTensors out;
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.tensor.grad().defined()) out.add(info.name, info.tensor.grad());
  }
  return out;
}

}  // namespace

TEST_CASE("what a mixer returns is added and the sum normed for the next mixer in one operator, in the next call too") {
  const ModelConfig config = test::tiny_config(3);
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  const Batch batch = test::random_batch(2, 9, config.vocab_size, 4);
  const auto calls = test::calls_of([&] { model->loss(batch, DepthPlan::plain(3)); });
  CHECK(calls.at("meristem::add_rms_norm") == 5);  // behind each mixer but the last
  CHECK(calls.at("meristem::rms_norm") == 2);      // the first mixer's, the model's own
}

TEST_CASE("what calls look up by their place in the plan is there once an update has begun") {
  for (const DepthPosition position : {DepthPosition::kRope, DepthPosition::kNone}) {
    ModelConfig config = test::tiny_dreamer("separate");
    config.depth_attention->position = position;
    const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kLibrary));
    const Batch batch = test::random_batch(1, 4, config.vocab_size, 4);
    for (const DepthPlan& plan : {config.depth_plan.plan, DepthPlan::parse("(0)x70")}) {  // the second goes beyond any first table
      model->begin_update(plan);
      const auto first = test::calls_of([&] { model->loss(batch, plan); });
      CHECK(first == test::calls_of([&] { model->loss(batch, plan); }));
    }
  }
}

TEST_CASE("depth attention at its start changes nothing, to the bit, and its output projection has a gradient at once") {
  for (const DepthPosition position : {DepthPosition::kRope, DepthPosition::kNone}) {
    ModelConfig with = test::tiny_dreamer("separate");
    with.depth_attention->position = position;
    ModelConfig without = with;
    without.depth_attention.reset();
    const auto a = test::make_model(with, test::build_of(at::kDouble, Path::kLibrary)),
               b = test::make_model(without, test::build_of(at::kDouble, Path::kLibrary));
    copy_weights(*a, *b);
    const Batch batch = test::random_batch(2, 9, with.vocab_size, 4);
    const DepthPlan plan = with.depth_plan.plan;
    CHECK(torch::equal(a->logits(batch, plan), b->logits(batch, plan)));
    const NamedTensors grads = gradients_of(*a, batch, plan), plain = gradients_of(*b, batch, plan);
    for (const auto& [name, grad] : plain) CHECK(test::max_error(grad, grads.at(name)) <= 1e-12 * (1 + grad.abs().max().item<double>()));
    CHECK(grads.at("blocks.0.depth_attention.output.weight").abs().max().item<double>() > 0);
  }
}

TEST_CASE("a dreamer that is called once, dense and without depth attention, is the plain decoder") {
  ModelConfig config = test::tiny_config(3);
  const auto decoder = test::make_model(config, test::build_of(at::kDouble, Path::kLibrary));
  config.architecture = "dreamer";
  const auto dreamer = test::make_model(config, test::build_of(at::kDouble, Path::kLibrary));
  const Batch batch = test::random_batch(2, 9, config.vocab_size, 4);
  const DepthPlan plan = DepthPlan::plain(3);
  CHECK_FALSE(torch::equal(decoder->logits(batch, plan), dreamer->logits(batch, plan)));  // another start
  copy_weights(*decoder, *dreamer);
  CHECK(torch::equal(decoder->logits(batch, plan), dreamer->logits(batch, plan)));
}

TEST_CASE("in the first call there is no earlier one: joint and values are plain attention") {
  ModelConfig plain = test::tiny_config(1);
  const Batch batch = test::random_batch(2, 9, plain.vocab_size, 4);
  const auto expected = test::make_model(plain, test::build_of(at::kDouble, Path::kReference))->logits(batch, DepthPlan::plain(1));
  for (const auto kind : {DepthAttentionKind::kJoint, DepthAttentionKind::kValues}) {
    ModelConfig config = plain;
    config.depth_attention = DepthAttentionConfig{kind, 0, {}, {}};
    const auto model = test::make_model(config, test::build_of(at::kDouble, Path::kReference));
    CHECK(test::max_error(model->logits(batch, DepthPlan::plain(1)), expected) < 1e-12);
    CHECK(test::max_error(
              model->logits(batch, DepthPlan::parse("(0)x2")),
              test::make_model(plain, test::build_of(at::kDouble, Path::kReference))->logits(batch, DepthPlan::parse("(0)x2"))) > 1e-3);
  }
}

TEST_CASE("joint and values add no parameters; separate adds 4 width^2 and two norms a block") {
  const auto count = [](const ModelConfig& config) {
    std::int64_t total = 0;
    for (const ParameterInfo& info : builtin_registry().make(config, test::build_of(at::kFloat, Path::kReference), 8)->parameter_infos())
      total += info.tensor.numel();
    return total;
  };
  const std::int64_t none = count(test::tiny_dreamer("none"));
  CHECK(count(test::tiny_dreamer("joint")) == none);
  CHECK(count(test::tiny_dreamer("values")) == none);
  CHECK(count(test::tiny_dreamer("separate")) == none + 4 * 32 * 32 + 2 * 32);
}

TEST_CASE("projections into the residual stream start smaller by the square root of twice the contributions") {
  ModelConfig config = test::tiny_dreamer("separate");
  config.width = 256;
  config.attention.head_dim = 64;
  config.depth_plan = "(0)x16";
  const auto values = nn::initial_values(*builtin_registry().make(config, test::build_of(at::kFloat, Path::kReference), 8), 1);
  const double expected = 0.02 / std::sqrt(2.0 * 16 * 3);
  for (const char* name : {"attention.output.weight", "feed_forward.down"}) {
    const at::Tensor& value = values.at(std::string("blocks.0.") + name);
    CHECK(value.std().item<double>() == Approx(expected).epsilon(0.05));
  }
  CHECK(values.at("blocks.0.attention.qkv.weight").std().item<double>() == Approx(0.02).epsilon(0.05));
  CHECK(values.at("blocks.0.depth_attention.output.weight").abs().max().item<double>() == 0);
  CHECK(values.at("blocks.0.feed_forward.balance_bias").abs().max().item<double>() == 0);
}
