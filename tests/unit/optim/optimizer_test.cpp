#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "core/errors.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/tiny_model.h"

using namespace meristem;
using ops::Path;

namespace {

OptimizerConfig of_kind(OptimizerKind kind) {
  OptimizerConfig config;
  config.kind = kind;
  config.weight_decay = 0.1;
  if (kind == OptimizerKind::kMuon) config.muon = MuonConfig{};
  return config;
}
const OptimizerConfig kAdamw = of_kind(OptimizerKind::kAdamw), kMuon = of_kind(OptimizerKind::kMuon);

// Every kind of matrix: grouped queries, an untied head, experts with shared ones, depth attention, a loop's injection.
ModelConfig everything() {
  ModelConfig config = test::tiny_config(2);
  config.architecture = "dreamer";
  config.tie_embeddings = false;
  config.depth_plan = "(0-1)x2";
  config.loop.injection = Injection::kConcat;
  config.depth_attention = DepthAttentionConfig{};
  config.depth_attention->heads = 2;
  config.depth_attention->keys = DepthKeys::kStates;
  config.depth_attention->position = DepthPosition::kRope;
  config.feed_forward.kind = FeedForwardKind::kExperts;
  config.feed_forward.inner = 16;
  config.feed_forward.count = 3;
  config.feed_forward.active = 2;
  config.feed_forward.shared = 2;
  config.feed_forward.router_dim = 8;
  config.feed_forward.balance_rate = 1e-3;
  return config;
}

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
  for (const OptimizerConfig& config : {kAdamw, kMuon}) {
    const Lane lane(everything(), config, at::kBFloat16, Path::kFused);
    const NamedTensors state = lane.optimizer.state(), layout = state_layout(lane.model->parameter_infos(), config);
    const auto prefixes = state_prefixes(config);
    REQUIRE(layout.size() == state.size());
    auto declared = layout.begin();
    for (const auto& [name, tensor] : state) {
      CHECK(declared->first == name);
      CHECK(declared->second.sizes() == tensor.sizes());
      CHECK(declared->second.scalar_type() == tensor.scalar_type());
      CHECK(declared->second.is_meta());
      CHECK(tensor.abs().max().item<double>() == 0);
      CHECK(std::count_if(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) { return name.starts_with(prefix); }) == 1);
      ++declared;
    }
  }
}

TEST_CASE("Muon has the matrices between hidden states and keeps one moment of them; the rest is AdamW's") {
  const Lane lane(everything(), kMuon, at::kFloat, Path::kFused);
  const NamedTensors state = lane.optimizer.state();
  std::map<std::string, std::vector<std::string>> by_rule;
  for (const FlatEntry& entry : lane.parameters.entries()) {
    const bool muon = lane.parameters.ranges()[entry.range].rule == UpdateRule::kMuon;
    CHECK(state.contains("momentum." + entry.name) == muon);
    CHECK(state.contains("exp_avg." + entry.name) != muon);
    CHECK(state.contains("exp_avg_sq." + entry.name) != muon);
    if (entry.name.rfind("blocks.1", 0) != 0) by_rule[muon ? "muon" : "adamw"].push_back(entry.name);
  }
  const auto sorted = [](std::vector<std::string> names) {
    std::sort(names.begin(), names.end());
    return names;
  };
  CHECK(sorted(by_rule["muon"]) == std::vector<std::string>{"blocks.0.attention.output.weight", "blocks.0.attention.qkv.weight",
                                                            "blocks.0.depth_attention.key_value.weight",
                                                            "blocks.0.depth_attention.output.weight",
                                                            "blocks.0.depth_attention.query.weight", "blocks.0.feed_forward.down",
                                                            "blocks.0.feed_forward.gate_up", "blocks.0.feed_forward.shared_down.weight",
                                                            "blocks.0.feed_forward.shared_gate_up.weight", "injection.weight"});
  CHECK(std::count(by_rule["adamw"].begin(), by_rule["adamw"].end(), "blocks.0.feed_forward.router.weight") == 1);
  CHECK(std::count(by_rule["adamw"].begin(), by_rule["adamw"].end(), "head.weight") == 1);
  CHECK(state.contains("step.blocks.0.decay"));  // of the router
  CHECK_FALSE(state.contains("step.blocks.0.muon"));
}

TEST_CASE("packed matrices are said by who packs them, and add up to the parameter's rows") {
  const auto model = test::make_model(everything(), test::build_of(at::kFloat, Path::kFused));
  std::map<std::string, MatrixRows> packed;
  for (const ParameterInfo& info : model->parameter_infos()) {
    if (info.packed_rows.size() < 2) continue;
    CHECK(std::accumulate(info.packed_rows.begin(), info.packed_rows.end(), std::int64_t{0}) == info.tensor.size(-2));
    if (info.name.rfind("blocks.0.", 0) == 0) packed[info.name.substr(9)] = info.packed_rows;
  }
  CHECK(packed == std::map<std::string, MatrixRows>{{"attention.qkv.weight", {32, 16, 16}},
                                                    {"depth_attention.key_value.weight", {32, 32}},
                                                    {"feed_forward.gate_up", {16, 16}},
                                                    {"feed_forward.shared_gate_up.weight", {32, 32}}});
}

TEST_CASE("AdamW keeps two moments of each parameter in fp32, and a count a range") {
  const Lane lane(test::tiny_config(2), kAdamw, at::kBFloat16, Path::kFused);
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
  for (const auto& [path, config] : {std::pair{Path::kReference, kAdamw},
                                     {Path::kLibrary, kAdamw},
                                     {Path::kFused, kAdamw},
                                     {Path::kReference, kMuon},
                                     {Path::kFused, kMuon}}) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      INFO("path " << static_cast<int>(path) << (config.muon ? " of muon" : ""));
      Lane refusing(test::tiny_config(2), config, compute, path), sound(test::tiny_config(2), config, compute, path);
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
  for (const OptimizerConfig& config : {kAdamw, kMuon}) {
    Lane lane(everything(), config, at::kBFloat16, Path::kFused), twin(everything(), config, at::kBFloat16, Path::kFused);
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
    CHECK(torch::equal(lane.parameters.half(), lane.parameters.master().to(at::kBFloat16)));
  }
}

TEST_CASE("Muon's matrices may have a learning rate of their own, which the schedule scales like the other") {
  OptimizerConfig slow = kMuon;
  slow.muon->lr = slow.lr / 4;
  const auto moved = [](const OptimizerConfig& config) {
    Lane lane(test::tiny_config(1), config, at::kFloat, Path::kFused);
    const at::Tensor before = lane.parameters.master().clone();
    lane.update(1);
    const at::Tensor difference = lane.parameters.master() - before;
    std::map<std::string, double> norms;
    for (const FlatEntry& entry : lane.parameters.entries())
      norms[entry.name] = lane.parameters.view(difference, entry).norm().item<double>();
    return norms;
  };
  const auto alike = moved(kMuon), own = moved(slow);
  CHECK(own.at("blocks.0.attention.output.weight") == Approx(alike.at("blocks.0.attention.output.weight") / 4).epsilon(1e-3));
  CHECK(own.at("embedding.weight") == alike.at("embedding.weight"));
}

TEST_CASE("a state that is another model's is refused by name") {
  Lane lane(test::tiny_config(2), kAdamw, at::kFloat, Path::kFused);
  const NamedTensors state = copy_of(lane.optimizer.state());
  const auto refusal = [&](const NamedTensors& other) { return test::message_of<DamagedError>([&] { lane.optimizer.load_state(other); }); };
  CHECK_THAT(refusal(NamedTensors()), Catch::Contains("exp_avg.embedding.weight is missing"));
  CHECK_THAT(refusal(with(state, "exp_avg.norm.weight", torch::zeros({3}))), Catch::Contains("exp_avg.norm.weight has shape [3]"));
  CHECK_THAT(refusal(with(state, "step.norm", torch::scalar_tensor(-1, torch::kLong))), Catch::Contains("step.norm is -1"));
  NamedTensors more = copy_of(state);
  more.add("exp_avg.extra", torch::zeros({3}));
  CHECK_THAT(refusal(more), Catch::Contains("expected"));
  const Lane other(test::tiny_config(2), kMuon, at::kFloat, Path::kFused);
  CHECK_THAT(refusal(other.optimizer.state()), Catch::Contains("exp_avg.blocks.0.attention.qkv.weight is missing"));
}
