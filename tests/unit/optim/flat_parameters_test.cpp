#include "optim/flat_parameters.h"

#include <map>

#include "optim/adamw.h"
#include "support/catch.h"
#include "support/tiny_model.h"

using namespace meristem;
using ops::Path;

TEST_CASE("the layout: one segment a block and decay group, aligned, nothing overlapping, the right things decayed") {
  ModelConfig config = test::tiny_config(2);
  config.tie_embeddings = false;
  const auto model = builtin_registry().make(config, test::build_of(at::kBFloat16, Path::kFused), 16);
  const FlatParameters flat(model->parameter_infos(), at::kBFloat16, false);
  std::map<std::string, bool> decays;
  std::int64_t end = 0;
  for (const FlatSegment& segment : flat.segments()) {
    decays[segment.name] = segment.decay;
    CHECK(segment.offset == end);
    CHECK(segment.offset % 32 == 0);
    end = segment.offset + segment.count;
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
  const Batch batch = test::random_batch(2, 8, config.vocab_size, 1);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto model = test::make_model(config, test::build_of(type, Path::kFused));
    // The same model, its gradients left to autograd.
    const auto plain = test::make_model(config, test::build_of(type, Path::kFused));
    FlatParameters flat(model->parameter_infos(), type, false);
    for (const ParameterInfo& info : model->parameter_infos()) {
      CHECK(info.tensor.scalar_type() == (info.role == Role::kNorm ? at::kFloat : type));
    }
    CHECK(flat.master().scalar_type() == at::kFloat);
    CHECK(flat.grad().scalar_type() == at::kFloat);
    const AdamW optimizer(flat, {}, Path::kFused);
    const NamedTensors state = optimizer.state();
    for (const auto& [name, tensor] : state) CHECK(tensor.scalar_type() == (name.rfind("step.", 0) == 0 ? at::kLong : at::kFloat));
    const DepthPlan plan = DepthPlan::plain(2);
    for (int micro = 0; micro < 2; ++micro) model->loss(batch, plan).loss_sum.backward();
    plain->loss(batch, plan).loss_sum.backward();
    const auto infos = plain->parameter_infos();
    for (const FlatEntry& entry : flat.entries()) {
      for (const ParameterInfo& info : infos) {
        if (info.name != entry.name) continue;
        INFO(entry.name);
        CHECK(torch::equal(flat.view(flat.grad(), entry), info.tensor.grad().to(at::kFloat) * 2));
      }
    }
    flat.zero_grad();
    CHECK(flat.grad().abs().max().item<float>() == 0);
  }
}

TEST_CASE("an update moves masters and copies together and leaves padding alone") {
  ModelConfig config = test::tiny_config(1);
  config.width = 24;  // 61 x 24 elements do not fill their last 64 bytes
  const auto model = test::make_model(config, test::build_of(at::kBFloat16, Path::kFused));
  FlatParameters flat(model->parameter_infos(), at::kBFloat16, false);
  OptimizerConfig optimizer_config;
  AdamW optimizer(flat, optimizer_config, Path::kFused);
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

  // The state survives a round trip by name; a wrong one is refused.
  const auto twin = test::make_model(config, test::build_of(at::kBFloat16, Path::kFused));
  FlatParameters twin_flat(twin->parameter_infos(), at::kBFloat16, false);
  AdamW twin_optimizer(twin_flat, optimizer_config, Path::kFused);
  twin_flat.load_masters(flat.masters());
  twin_optimizer.load_state(optimizer.state());
  for (const auto& [name, tensor] : optimizer.state()) CHECK(torch::equal(tensor, twin_optimizer.state().at(name)));
  CHECK_THROWS_WITH(twin_flat.load_masters(NamedTensors()), Catch::Contains("embedding.weight is missing"));
  CHECK_THROWS(twin_optimizer.load_state(NamedTensors()));
}
