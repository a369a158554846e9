#include <set>

#include "core/errors.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

TEST_CASE("parameters have the fixed names and each its own start") {
  ModelConfig config = test::tiny_config(2);
  config.attention.qk_norm = true;
  config.tie_embeddings = false;
  const auto model = builtin_registry().make(config, test::build_of(at::kFloat, Path::kReference), 8);
  std::set<std::string> names;
  for (const ParameterInfo& info : model->parameter_infos()) names.insert(info.name);
  std::set<std::string> expected{"embedding.weight", "norm.weight", "head.weight"};
  for (const char* block : {"blocks.0.", "blocks.1."}) {
    for (const char* part :
         {"attention.norm.weight", "attention.qkv.weight", "attention.q_norm.weight", "attention.k_norm.weight", "attention.output.weight",
          "feed_forward.norm.weight", "feed_forward.gate_up.weight", "feed_forward.down.weight"}) {
      expected.insert(std::string(block) + part);
    }
  }
  CHECK(names == expected);

  // Adding a block or a head shifts no other tensor's numbers.
  const auto small = nn::initial_values(*builtin_registry().make(test::tiny_config(1), test::build_of(at::kFloat, Path::kReference), 8), 7);
  const auto large = nn::initial_values(*model, 7);
  for (const auto& [name, value] : small) CHECK(torch::equal(value, large.at(name)));
  CHECK_FALSE(torch::equal(large.at("blocks.0.attention.qkv.weight"), large.at("blocks.1.attention.qkv.weight")));
}

TEST_CASE("changing token t leaves the logits before t bitwise equal, and changes those from t on") {
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const ModelConfig config = test::tiny_config();
      const auto model = test::make_model(config, test::build_of(type, path));
      torch::NoGradGuard no_grad;
      Batch batch = test::random_batch(1, 16, config.vocab_size, 3);
      const DepthPlan plan = DepthPlan::parse("0-2, 1");
      const at::Tensor before = model->logits(batch, plan);
      batch.tokens_N = batch.tokens_N.clone();
      batch.tokens_N[9] = (batch.tokens_N[9] + 1) % config.vocab_size;
      const at::Tensor after = model->logits(batch, plan);
      CHECK(torch::equal(before.narrow(0, 0, 9), after.narrow(0, 0, 9)));
      CHECK_FALSE(torch::equal(before[9], after[9]));
      CHECK_FALSE(torch::equal(before[15], after[15]));
    }
  }
}

TEST_CASE("the loss's gradient agrees with finite differences in fp64") {
  ModelConfig config = test::tiny_config(2);
  config.attention.qk_norm = true;
  for (const bool tied : {true, false}) {
    config.tie_embeddings = tied;
    const auto model = test::make_model(config, test::build_of(at::kDouble, Path::kLibrary));
    const Batch batch = test::random_batch(2, 7, config.vocab_size, 4);
    const DepthPlan plan = DepthPlan::parse("0-1, 0");
    model->loss(batch, plan).loss_sum.backward();
    torch::NoGradGuard no_grad;
    for (const ParameterInfo& info : model->parameter_infos()) {
      // A random direction: one number checks the whole tensor.
      torch::manual_seed(5);
      const at::Tensor direction = torch::randn_like(info.tensor);
      const double h = 1e-6;  // the difference quotient errs by h^2 f''' and by loss * 1e-16 / h
      at::Tensor parameter = info.tensor;
      const at::Tensor start = parameter.clone();
      parameter.copy_(start + h * direction);
      const double up = model->loss(batch, plan).loss_sum.item<double>();
      parameter.copy_(start - h * direction);
      const double down = model->loss(batch, plan).loss_sum.item<double>();
      parameter.copy_(start);
      INFO(info.name);
      CHECK((parameter.grad() * direction).sum().item<double>() == Approx((up - down) / (2 * h)).epsilon(1e-6).margin(1e-6));
    }
  }
}

TEST_CASE("our kernels give the reference's loss and gradients within its own precision") {
  const ModelConfig config = test::tiny_config();
  const Batch batch = test::random_batch(2, 16, config.vocab_size, 6);
  const DepthPlan plan = DepthPlan::plain(config.blocks);
  const auto gradients = [&](at::ScalarType type, Path path) {
    const auto model = test::make_model(config, test::build_of(type, path));
    model->loss(batch, plan).loss_sum.backward();
    NamedTensors out;
    for (const ParameterInfo& info : model->parameter_infos()) out.add(info.name, info.tensor.grad());
    return out;
  };
  const NamedTensors exact = gradients(at::kDouble, Path::kReference);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const NamedTensors plain = gradients(type, Path::kReference), fused = gradients(type, Path::kFused);
    for (const auto& [name, grad] : fused) {
      const auto bound = test::compare(grad, plain.at(name), exact.at(name), 3);
      INFO(c10::toString(type) << " " << name << " error " << bound.error << " allowed " << bound.allowed);
      CHECK(bound.holds());
    }
  }
}

TEST_CASE("packed documents are as if alone") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kDouble, Path::kLibrary));
  torch::NoGradGuard no_grad;
  const Batch first = test::random_batch(1, 9, config.vocab_size, 7), second = test::random_batch(1, 5, config.vocab_size, 8);
  Batch packed;
  packed.tokens_N = torch::cat({first.tokens_N, second.tokens_N});
  packed.positions_N = torch::cat({first.positions_N, second.positions_N});
  packed.targets_N = torch::cat({first.targets_N, second.targets_N});
  packed.documents = {{9, 5}};
  const DepthPlan plan = DepthPlan::plain(config.blocks);
  const at::Tensor alone = torch::cat({model->logits(first, plan), model->logits(second, plan)});
  CHECK(test::max_error(model->logits(packed, plan), alone) < 1e-12);
}

TEST_CASE("an unknown architecture is refused with the known ones") {
  ModelConfig config = test::tiny_config();
  config.architecture = "decodr";
  CHECK_THROWS_WITH(builtin_registry().make(config, {}, 8), Catch::Contains("allowed: decoder") && Catch::Contains("did you mean decoder"));
}

TEST_CASE("a text longer than the model was built for is read as by one that was built for it") {
  torch::NoGradGuard no_grad;
  const ModelConfig config = test::tiny_config();
  for (const Path path : {Path::kReference, Path::kFused}) {
    const ModelBuild build = test::build_of(at::kFloat, path);
    const auto model = test::make_model(config, build), longer = builtin_registry().make(config, build, 128);
    for (const ParameterInfo& info : longer->parameter_infos()) {
      for (const ParameterInfo& own : model->parameter_infos()) {
        if (own.name == info.name) at::Tensor(info.tensor).copy_(own.tensor);
      }
    }
    const Batch batch = test::random_batch(1, 100, config.vocab_size, 5);
    const DepthPlan plan = DepthPlan::plain(config.blocks);
    CHECK(torch::equal(model->logits(batch, plan), longer->logits(batch, plan)));
    const auto fresh = test::make_model(config, build);
    CHECK(fresh->loss(batch, plan).loss_sum.item<float>() == longer->loss(batch, plan).loss_sum.item<float>());
  }
}
