#include "nn/feed_forward.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/experts.h"
#include "ops/swiglu.h"

namespace meristem::nn {

FeedForwardImpl::FeedForwardImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std)
    : width_(config.width),
      inner_(config.feed_forward.inner),
      gelu_(config.feed_forward.kind == FeedForwardKind::kGeglu),
      path_(paths.swiglu) {
  norm_ = register_module("norm", InputNorm(config, placement, paths));
  gate_up_ = register_module("gate_up", Linear(width_, MatrixRows{inner_, inner_}, kInitStd, placement));
  down_ = register_module("down", Linear(inner_, width_, output_std, placement));
  down_->end_mixer();
}

at::Tensor FeedForwardImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  const at::Tensor gate_up = gate_up_->forward(norm_->forward(h_ND, call.normed_ND));
  return down_->forward(gelu_ ? ops::geglu(gate_up) : ops::swiglu(gate_up, path_));
}

CallCost FeedForwardImpl::cost(const CallPlace&) const {
  const double width = static_cast<double>(width_), inner = static_cast<double>(inner_);
  CallCost cost;
  cost.matmul_flops = 2 * width * 2 * inner + 2 * inner * width;
  cost.saved_elements = width + norm_->saved_elements() + 3 * inner;  // residual input, its norm, gate and up, their product
  if (gelu_) {
    cost.saved_fp32 = inner;       // the gate's GELU
    cost.saved_casts = 2 * inner;  // gate and up
  }
  return cost;
}

at::Tensor depth_encoding(std::int64_t depth, std::int64_t size, const at::TensorOptions& options) {
  std::vector<double> values(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; i += 2) {
    const double angle = static_cast<double>(depth) / std::pow(10000.0, static_cast<double>(i) / static_cast<double>(size));
    values[static_cast<std::size_t>(i)] = std::sin(angle);
    values[static_cast<std::size_t>(i) + 1] = std::cos(angle);
  }
  return torch::tensor(values, torch::kDouble).to(options);
}

ExpertsImpl::ExpertsImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std)
    : config_(config.feed_forward), width_(config.width), paths_(paths) {
  const std::int64_t count = config_.count, inner = config_.inner, shared = config_.shared * inner;
  norm_ = register_module("norm", InputNorm(config, placement, paths));
  router_ = register_module("router", Linear(width_, config_.router_dim, kInitStd, placement, Role::kRouter));
  router_keys_ = add_parameter("router_keys", {count, config_.router_dim}, Role::kRouterKey, kInitStd, placement);
  balance_bias_ = add_parameter("balance_bias", {count}, Role::kBalance, 0, placement);
  gate_up_ = add_parameter("gate_up", {count, 2 * inner, width_}, Role::kLinear, kInitStd, placement, {inner, inner});
  down_ = add_parameter("down", {count, width_, inner}, Role::kLinear, output_std, placement);
  mark_ends_mixer("down");
  if (shared == 0) return;
  shared_gate_up_ = register_module("shared_gate_up", Linear(width_, MatrixRows{shared, shared}, kInitStd, placement));
  shared_down_ = register_module("shared_down", Linear(shared, width_, output_std, placement));
  shared_down_->end_mixer();
}

void ExpertsImpl::prepare(std::int64_t calls) { encoding_of(calls); }

at::Tensor ExpertsImpl::encoding_of(std::int64_t depth) {
  if (!encodings_.defined() || encodings_.size(0) <= depth) {
    std::vector<at::Tensor> rows;
    for (std::int64_t r = 0; r < std::max<std::int64_t>(64, 2 * depth); ++r)
      rows.push_back(depth_encoding(r, config_.router_dim, torch::kDouble));
    outgrown_.push_back(encodings_);
    encodings_ = torch::stack(rows).to(router_keys_.options().requires_grad(false));
  }
  return encodings_[depth];
}

ExpertsImpl::Choice ExpertsImpl::choose(const at::Tensor& normed_ND, std::int64_t depth) {
  constexpr double kFloor = 1e-9;  // of the sum that weights are divided by
  const at::Tensor u_ND = normed_ND.to(router_keys_.scalar_type());
  const at::Tensor q = router_->forward(u_ND) + encoding_of(depth);
  const at::Tensor x_NE = ops::linear(q, router_keys_, {}, paths_.linear);
  Choice choice;
  choice.chosen_Nk = std::get<1>((x_NE.detach() + balance_bias_).topk(config_.active, 1));
  const at::Tensor gates_Nk = ops::chosen_scores(x_NE, choice.chosen_Nk).sigmoid();
  choice.weights_Nk = gates_Nk / gates_Nk.sum(1, true).clamp_min(kFloor);
  return choice;
}

at::Tensor ExpertsImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  const at::Tensor normed_ND = norm_->forward(h_ND, call.normed_ND);
  const Choice choice = choose(normed_ND, call.depth_index + 1);
  if (call.loads_E.defined()) call.loads_E.add_(ops::expert_counts(choice.chosen_Nk, config_.count));
  if (call.observer != nullptr) call.observer->chose(call, choice.chosen_Nk, config_.count);
  at::Tensor out = ops::expert_mixture(normed_ND, choice.chosen_Nk, choice.weights_Nk, {gate_up_, down_}, paths_.experts, paths_.swiglu);
  if (!shared_down_.is_empty()) out = out + shared_down_->forward(ops::swiglu(shared_gate_up_->forward(normed_ND), paths_.swiglu));
  return out;
}

void ExpertsImpl::balance(const at::Tensor& counts_E, const at::Tensor& updated) {
  torch::NoGradGuard no_grad;
  const at::Tensor loads_E = counts_E.to(balance_bias_.scalar_type());
  const at::Tensor moved_E = balance_bias_.add((loads_E.mean() - loads_E).sign(), *config_.balance_rate);
  balance_bias_.copy_(at::where(updated, moved_E, balance_bias_));
}

CallCost ExpertsImpl::cost(const CallPlace&) const {
  const double width = static_cast<double>(width_), inner = static_cast<double>(config_.inner), count = static_cast<double>(config_.count),
               active = static_cast<double>(config_.active), shared = static_cast<double>(config_.shared),
               router = static_cast<double>(config_.router_dim);
  CallCost cost;
  cost.matmul_flops = 2 * router * (width + count) + (active + shared) * 2 * 3 * width * inner;
  // residual input and its norm; per expert its copy of the token, gate and up, their product
  cost.saved_elements = width + norm_->saved_elements() + active * (width + 3 * inner) + shared * 3 * inner;
  // per expert its output, its score's sigmoid, its weight, and two places of eight bytes each; the router's query
  const bool moved_by_ours = paths_.experts == ops::Path::kFused;  // then outputs stay as the products leave them
  (moved_by_ours ? cost.saved_elements : cost.saved_fp32) += active * width;
  cost.saved_fp32 += active * 8 + router;
  cost.saved_casts = width;  // the norm, for the router
  cost.expert_parameters = count * 3 * width * inner;
  cost.active_share = active / count;
  return cost;
}

}  // namespace meristem::nn
