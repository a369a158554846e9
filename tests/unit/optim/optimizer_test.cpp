#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/errors.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/tiny_model.h"

using namespace meristem;
using ops::Path;

namespace {

// A model whose gradients are made up: what an optimizer sees of a run.
struct Lane {
  std::shared_ptr<Model> model;
  FlatParameters parameters;
  Optimizer optimizer;

  Lane(const ModelConfig& config, const OptimizerConfig& optimizer_config, at::ScalarType compute, Path path)
      : model(test::make_model(config, test::build_of(compute, Path::kFused))),
        parameters(model->parameter_infos(), compute, optimizer_config),
        optimizer(parameters, optimizer_config, path) {}

  void update(std::int64_t n, float grad_scale = 0.5f) {
    torch::manual_seed(static_cast<std::uint64_t>(n));
    parameters.zero_grad();
    for (const FlatEntry& entry : parameters.entries()) parameters.view(parameters.grad(), entry).normal_();
    if (!std::isfinite(grad_scale)) parameters.view(parameters.grad(), parameters.entries().front()).fill_(grad_scale);
    optimizer.step(torch::scalar_tensor(1e-2f), torch::scalar_tensor(grad_scale));
  }
};

NamedTensors copy_of(const NamedTensors& tensors) {
  NamedTensors out;
  for (const auto& [name, tensor] : tensors) out.add(name, tensor.clone());
  return out;
}

NamedTensors with(const NamedTensors& tensors, const std::string& name, const at::Tensor& value) {
  NamedTensors out;
  for (const auto& [other, tensor] : tensors) out.add(other, other == name ? value : tensor);
  return out;
}

void check_equal(const NamedTensors& a, const NamedTensors& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    INFO(name);
    CHECK(torch::equal(tensor, b.at(name)));
  }
}

}  // namespace

TEST_CASE("what is kept is declared: names, shapes and types without a model, prefixes, all zero at first") {
  const ModelConfig config = test::tiny_config(2);
  const OptimizerConfig optimizer_config;
  const Lane lane(config, optimizer_config, at::kBFloat16, Path::kFused);
  const NamedTensors state = lane.optimizer.state(), layout = state_layout(lane.model->parameter_infos(), optimizer_config);
  REQUIRE(layout.size() == state.size());
  auto declared = layout.begin();
  for (const auto& [name, tensor] : state) {
    CHECK(declared->first == name);
    CHECK(declared->second.sizes() == tensor.sizes());
    CHECK(declared->second.scalar_type() == tensor.scalar_type());
    CHECK(declared->second.is_meta());
    CHECK(tensor.abs().max().item<double>() == 0);
    const auto prefixes = state_prefixes(optimizer_config);
    CHECK(std::count_if(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) { return name.starts_with(prefix); }) == 1);
    ++declared;
  }
}

TEST_CASE("AdamW keeps two moments of each parameter in fp32, and a count a range") {
  const Lane lane(test::tiny_config(2), {}, at::kBFloat16, Path::kFused);
  std::size_t moments = 0, counts = 0;
  const NamedTensors state = lane.optimizer.state();
  for (const auto& [name, tensor] : state) {
    (name.starts_with("step.") ? counts : moments) += 1;
    CHECK(tensor.scalar_type() == (name.starts_with("step.") ? at::kLong : at::kFloat));
  }
  CHECK(moments == 2 * lane.parameters.entries().size());
  CHECK(counts == lane.parameters.ranges().size());
  CHECK(state.contains("exp_avg_sq.blocks.1.attention.qkv.weight"));
  CHECK(state.contains("step.blocks.1.no_decay"));
}

TEST_CASE("a refused update in the middle leaves no trace: all bits are those of a run without it") {
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      INFO("path " << static_cast<int>(path));
      Lane refusing(test::tiny_config(2), {}, compute, path), sound(test::tiny_config(2), {}, compute, path);
      for (std::int64_t n = 1; n <= 5; ++n) {
        if (n == 2) refusing.update(100, std::numeric_limits<float>::quiet_NaN());
        if (n == 4) refusing.update(101, std::numeric_limits<float>::infinity());
        refusing.update(n);
        sound.update(n);
      }
      check_equal(refusing.parameters.masters(), sound.parameters.masters());
      check_equal(refusing.optimizer.state(), sound.optimizer.state());
      CHECK(sound.optimizer.state().at("step.embedding").item<std::int64_t>() == 5);
      if (compute == at::kBFloat16) CHECK(torch::equal(refusing.parameters.half(), sound.parameters.half()));
    }
  }
}

TEST_CASE("state goes out and in by name, and the twin goes on with the same bits") {
  Lane lane(test::tiny_config(2), {}, at::kFloat, Path::kFused), twin(test::tiny_config(2), {}, at::kFloat, Path::kFused);
  for (std::int64_t n = 1; n <= 3; ++n) lane.update(n);
  twin.parameters.load_masters(lane.parameters.masters());
  twin.optimizer.load_state(copy_of(lane.optimizer.state()));
  check_equal(lane.optimizer.state(), twin.optimizer.state());
  for (std::int64_t n = 4; n <= 6; ++n) {
    lane.update(n);
    twin.update(n);
  }
  check_equal(lane.parameters.masters(), twin.parameters.masters());
  check_equal(lane.optimizer.state(), twin.optimizer.state());
}

TEST_CASE("a state that is another model's is refused by name") {
  Lane lane(test::tiny_config(2), {}, at::kFloat, Path::kFused);
  const NamedTensors state = copy_of(lane.optimizer.state());
  const auto refusal = [&](const NamedTensors& other) { return test::message_of<DamagedError>([&] { lane.optimizer.load_state(other); }); };
  CHECK_THAT(refusal(NamedTensors()), Catch::Contains("exp_avg.embedding.weight is missing"));
  CHECK_THAT(refusal(with(state, "exp_avg.norm.weight", torch::zeros({3}))), Catch::Contains("exp_avg.norm.weight has shape [3]"));
  CHECK_THAT(refusal(with(state, "step.norm", torch::scalar_tensor(-1, torch::kLong))), Catch::Contains("step.norm is -1"));
  NamedTensors more = copy_of(state);
  more.add("exp_avg.extra", torch::zeros({3}));
  CHECK_THAT(refusal(more), Catch::Contains("expected"));
}
