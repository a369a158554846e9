// Activation checkpointing changes memory and time, nothing else.
#include "models/calls.h"

#include "models/depth_model.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

namespace {

struct Outcome {
  double loss = 0;
  NamedTensors grads;
};

// Loss and gradients of two micro-batches that add up.
Outcome outcome(Model& model, const DepthPlan& plan, bool documents) {
  torch::manual_seed(3);
  model.begin_update(plan);
  Outcome out;
  for (const std::uint64_t seed : {1, 2}) {
    // The batch is gone before backward runs, as in training.
    at::Tensor loss = [&] {
      Batch batch = test::random_batch(2, 9, 61, seed);
      if (documents) batch.documents = {{4, 5, 9}};
      torch::manual_seed(seed);
      return model.loss(batch, plan).loss_sum;
    }();
    loss.backward();
    out.loss += loss.item<double>();
  }
  for (const ParameterInfo& info : model.parameter_infos()) {
    out.grads.add(info.name, info.tensor.grad().defined() ? info.tensor.grad() : torch::zeros_like(info.tensor));
  }
  return out;
}

void check_equal(const Outcome& a, const Outcome& b) {
  CHECK(a.loss == b.loss);
  for (const auto& [name, grad] : a.grads) {
    INFO(name);
    CHECK(torch::equal(grad, b.grads.at(name)));
  }
}

// A mixer that draws random numbers: half of its input is dropped.
class DropoutImpl : public nn::Mixer {
 public:
  at::Tensor forward(const at::Tensor& h_ND, nn::CallContext&) override {
    ++runs;
    return at::dropout(h_ND, 0.5, /*train=*/true);
  }
  nn::CallCost cost(const nn::CallPlace&) const override { return {}; }
  int runs = 0;
};

}  // namespace

TEST_CASE("checkpointing on and off give the same loss and gradients, to the bit") {
  struct Case {
    at::ScalarType type;
    Path path;
    std::int64_t every;
    Injection injection;
  };
  for (const Case& c : {Case{at::kFloat, Path::kFused, 1, Injection::kNone},
                        {at::kFloat, Path::kReference, 2, Injection::kConcat},
                        {at::kFloat, Path::kLibrary, 3, Injection::kAdd},
                        {at::kBFloat16, Path::kFused, 1, Injection::kConcat},
                        {at::kDouble, Path::kLibrary, 1, Injection::kNone}}) {
    ModelConfig config = test::tiny_config(4);
    config.loop.injection = c.injection;
    if (c.every == 3) config.loop.backprop_last = 2;
    ModelBuild build = test::build_of(c.type, c.path);
    const auto plain = test::make_model(config, build);
    build.checkpoint_every = c.every;
    const auto checkpointed = test::make_model(config, build);
    const DepthPlan plan = DepthPlan::parse("0, (1-2)x4, 3");
    INFO(c10::toString(c.type) << " " << ops::path_name(c.path) << " " << word_of(c.injection) << " every " << c.every);
    check_equal(outcome(*checkpointed, plan, c.every == 2), outcome(*plain, plan, c.every == 2));
  }
}

TEST_CASE("a call that reads the memory of its depth is computed again from the same memory, and its experts are counted once") {
  struct Case {
    DepthAttentionKind kind;
    std::optional<DepthKeys> keys;
    at::ScalarType type;
    Injection injection = Injection::kNone;
  };
  for (const Case& c : {Case{DepthAttentionKind::kSeparate, DepthKeys::kStates, at::kFloat},
                        {DepthAttentionKind::kSeparate, DepthKeys::kUpdates, at::kDouble},
                        {DepthAttentionKind::kSeparate, DepthKeys::kStates, at::kDouble, Injection::kAdd},
                        {DepthAttentionKind::kSeparate, DepthKeys::kUpdates, at::kDouble, Injection::kConcat},
                        {DepthAttentionKind::kJoint, {}, at::kDouble, Injection::kAdd},
                        {DepthAttentionKind::kJoint, {}, at::kFloat},
                        {DepthAttentionKind::kValues, {}, at::kFloat}}) {
    ModelConfig config = test::tiny_config(2);
    config.architecture = "dreamer";
    config.depth_plan = "(0-1)x3";
    config.loop.injection = c.injection;
    config.depth_attention = DepthAttentionConfig{c.kind, c.keys ? 2 : 0, c.keys, {}};
    if (c.keys) config.depth_attention->position = DepthPosition::kRope;
    config.feed_forward = FeedForwardConfig{FeedForwardKind::kExperts, 24, 6, 2, 0, 16, 1e-3};
    ModelBuild build = test::build_of(c.type, Path::kLibrary);
    const auto plain = test::make_model(config, build);
    build.checkpoint_every = 1;
    const auto checkpointed = test::make_model(config, build);
    for (const auto& model : {plain, checkpointed}) {
      torch::manual_seed(9);
      torch::NoGradGuard no_grad;
      for (const ParameterInfo& info : model->parameter_infos()) {
        if (info.tensor.abs().max().item<double>() == 0) at::Tensor(info.tensor).normal_(0, 0.1);  // zero at the start of training: a no-op
      }
    }
    const DepthPlan plan = config.depth_plan.plan;
    const Outcome on = outcome(*checkpointed, plan, false), off = outcome(*plain, plan, false);
    INFO(word_of(c.kind) << " " << (c.keys ? word_of(*c.keys) : "") << " " << word_of(c.injection));
    CHECK(on.loss == off.loss);
    for (const auto& [name, grad] : off.grads) {
      INFO(name);
      // A state that the next two calls read gets its gradients in another order.
      const double allowed = c.type == at::kDouble ? 1e-12 * grad.abs().max().item<double>() : 0;
      CHECK(test::max_error(on.grads.at(name), grad) <= allowed);
    }
    CHECK(off.grads.at("blocks.0.attention.qkv.weight").abs().max().item<double>() > 0);
    for (const auto& model : {plain, checkpointed}) model->after_step(torch::tensor(true), model->expert_counts());
    REQUIRE(plain->expert_loads().by_depth.size() == 6);
    for (const auto& [depth, call] : plain->expert_loads().by_depth) {
      CHECK(torch::equal(checkpointed->expert_loads().by_depth.at(depth).counts_E, call.counts_E));
    }
  }
}

TEST_CASE("random numbers are drawn again alike, and the stream goes on behind them") {
  const ModelConfig config = test::tiny_config(2);
  std::vector<std::shared_ptr<DropoutImpl>> dropouts;
  const auto build_model = [&](std::int64_t every) {
    ModelBuild build = test::build_of(at::kFloat, Path::kLibrary);
    build.checkpoint_every = every;
    auto model = std::make_shared<DepthModel>(config, build, 64, [&](std::int64_t) {
      dropouts.push_back(std::make_shared<DropoutImpl>());
      return nn::Block(config, build.placement, build.paths,
                       std::vector<std::pair<std::string, std::shared_ptr<nn::Mixer>>>{
                           {"attention", std::make_shared<nn::AttentionImpl>(config, build.placement, build.paths)},
                           {"dropout", dropouts.back()},
                           {"feed_forward", std::make_shared<nn::FeedForwardImpl>(config, build.placement, build.paths)}});
    });
    torch::NoGradGuard no_grad;
    const NamedTensors values = nn::initial_values(*model, 1);
    for (const ParameterInfo& info : model->parameter_infos())
      at::Tensor(info.tensor).copy_(values.at(info.name) * (info.init_std > 0 ? 5 : 1));
    return model;
  };
  const auto plain = build_model(0), checkpointed = build_model(1);
  const DepthPlan plan = DepthPlan::parse("(0-1)x3");
  const Outcome expected = outcome(*plain, plan, false);
  const at::Tensor next = torch::randn({4});
  check_equal(outcome(*checkpointed, plan, false), expected);
  CHECK(torch::equal(torch::randn({4}), next));
  CHECK_FALSE(plain->runs_on_strands());  // who draws first would depend on the threads
  CHECK(dropouts[0]->runs == 2 * 3);      // two micro-batches, three repeats
  CHECK(dropouts[2]->runs == 2 * 2 * 3);  // and each once more
}

TEST_CASE("nothing is recomputed where no gradient is asked for") {
  ModelBuild build = test::build_of(at::kFloat, Path::kFused);
  build.checkpoint_every = 1;
  const auto model = test::make_model(test::tiny_config(2), build);
  torch::NoGradGuard no_grad;
  CHECK_FALSE(model->loss(test::random_batch(1, 5, 61, 1), DepthPlan::plain(2)).loss_sum.requires_grad());
}
