#include "optim/flat_parameters.h"

#include <map>

#include "optim/optimizer.h"
#include "support/catch.h"
#include "support/tiny_model.h"

using namespace meristem;
using ops::Path;

TEST_CASE("the layout: one range a block and decay group, aligned, nothing overlapping, the right things decayed") {
  ModelConfig config = test::tiny_config(2);
  config.tie_embeddings = false;
  const auto model = builtin_registry().make(config, test::build_of(at::kBFloat16, Path::kFused), 16);
  const FlatParameters flat(model->parameter_infos(), at::kBFloat16, OptimizerConfig{});
  std::map<std::string, bool> decays;
  std::int64_t end = 0;
  for (const FlatRange& range : flat.ranges()) {
    decays[range.name] = range.decay;
    CHECK(range.offset == end);
    CHECK(range.offset % 32 == 0);
    end = range.offset + range.count;
  }
  CHECK(end == flat.master().numel());
  CHECK(decays == std::map<std::string, bool>{{"embedding", false},
                                              {"blocks.0.decay", true},
                                              {"blocks.0.no_decay", false},
                                              {"blocks.1.decay", true},
                                              {"blocks.1.no_decay", false},
                                              {"norm", false},
                                              {"head", true}});
  end = 0;
  for (const FlatEntry& entry : flat.entries()) {
    CHECK(entry.offset >= end);
    CHECK(entry.offset % 32 == 0);
    end = entry.offset + entry.count;
  }
}

TEST_CASE("parameters are views, types are as promised, gradients land in the flat buffer and add up") {
  const ModelConfig config = test::tiny_config(2);
  const Batch batch = test::random_batch(4, 16, config.vocab_size, 1);
  const DepthPlan plan = DepthPlan::parse("(0-1)x2");
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Path products : {Path::kLibrary, Path::kFused}) {
      ModelBuild build = test::build_of(type, Path::kFused);
      build.paths.linear = products;
      const auto model = test::make_model(config, build);
      const auto plain = test::make_model(config, build);  // the same model, its gradients left to autograd
      FlatParameters flat(model->parameter_infos(), type, OptimizerConfig{});
      for (const ParameterInfo& info : model->parameter_infos()) {
        CHECK(info.tensor.scalar_type() == (info.role == Role::kNorm ? at::kFloat : type));
      }
      CHECK(flat.master().scalar_type() == at::kFloat);
      CHECK(flat.grad().scalar_type() == at::kFloat);
      std::map<std::size_t, int> told;  // once a pass, however the gradient came
      flat.on_gradient([&](std::size_t entry) { ++told[entry]; });
      for (int micro = 0; micro < 2; ++micro) model->loss(batch, plan).loss_sum.backward();
      plain->loss(batch, plan).loss_sum.backward();
      const auto infos = plain->parameter_infos();
      for (std::size_t e = 0; e < flat.entries().size(); ++e) {
        const FlatEntry& entry = flat.entries()[e];
        INFO(entry.name << " " << c10::toString(type) << " products " << ops::path_name(products));
        CHECK(told[e] == 2);
        for (const ParameterInfo& info : infos) {
          if (info.name != entry.name) continue;
          const at::Tensor sum = flat.view(flat.grad(), entry), twice = info.tensor.grad().to(at::kFloat) * 2;
          // What is added in fp32 was never rounded.
          CHECK((sum - twice).abs().max().item<float>() <= (type == at::kFloat ? 1e-6f : 1e-2f) * twice.abs().max().item<float>());
        }
      }
      flat.on_gradient({});
      flat.zero_grad();
      CHECK(flat.grad().abs().max().item<float>() == 0);
    }
  }
}

TEST_CASE("an update moves masters and copies together and leaves padding alone") {
  ModelConfig config = test::tiny_config(1);
  config.width = 24;  // 61 x 24 elements do not fill their last 64 bytes
  const auto model = test::make_model(config, test::build_of(at::kBFloat16, Path::kFused));
  FlatParameters flat(model->parameter_infos(), at::kBFloat16, OptimizerConfig{});
  Optimizer optimizer(flat, OptimizerConfig{}, Path::kFused);
  model->loss(test::random_batch(2, 8, config.vocab_size, 2), DepthPlan::plain(1)).loss_sum.backward();
  const at::Tensor before = flat.master().clone();
  optimizer.step(torch::scalar_tensor(1e-2f), torch::scalar_tensor(1.0f));
  CHECK(torch::equal(flat.half(), flat.master().to(at::kBFloat16)));
  std::int64_t covered = 0;
  at::Tensor padding = flat.master().clone();
  for (const FlatEntry& entry : flat.entries()) {
    CHECK_FALSE(torch::equal(flat.view(flat.master(), entry), flat.view(before, entry)));
    padding.narrow(0, entry.offset, entry.count).zero_();
    covered += entry.count;
  }
  CHECK(padding.abs().max().item<float>() == 0);
  CHECK(covered < flat.master().numel());
  CHECK_THROWS_WITH(flat.load_masters(NamedTensors()), Catch::Contains("embedding.weight is missing"));
}
