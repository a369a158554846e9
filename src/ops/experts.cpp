#include "ops/experts.h"

#include <torch/torch.h>

#include "ops/fused_experts.h"
#include "ops/grouped_linear.h"
#include "ops/swiglu.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The rows of x that the sorted choices name. order_M: the choice (n*k + j) that stands at each sorted place; place_M: its inverse.
class GatherTokens : public torch::autograd::Function<GatherTokens> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_ND, const at::Tensor& order_M, const at::Tensor& place_M) {
    const std::int64_t k = order_M.size(0) / x_ND.size(0);
    context->save_for_backward({place_M});
    context->saved_data["k"] = k;
    return x_ND.index_select(0, order_M.div(k, "floor"));
  }
  // A token's k gradients are summed side by side, so that no two threads add to one row.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor place_M = context->get_saved_variables()[0];
    const std::int64_t width = grads[0].size(1), k = context->saved_data["k"].toInt();
    return {grads[0].index_select(0, place_M).view({-1, k, width}).sum(1), {}, {}};
  }
};

// Back in the tokens' order: [M, D] -> [M, D].
class UnsortRows : public torch::autograd::Function<UnsortRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y_MD, const at::Tensor& order_M, const at::Tensor& place_M) {
    context->save_for_backward({order_M});
    return y_MD.index_select(0, place_M);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return {grads[0].index_select(0, context->get_saved_variables()[0]), {}, {}};
  }
};

at::Tensor every_expert_on_every_token(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                                       const ExpertWeights& experts, Path swiglu_path) {
  at::Tensor sum = at::zeros_like(x_ND, x_ND.options().dtype(weights_Nk.scalar_type()));
  for (std::int64_t e = 0; e < experts.gate_up.size(0); ++e) {
    const at::Tensor weight_N = at::where(chosen_Nk == e, weights_Nk, at::zeros_like(weights_Nk)).sum(1);
    const at::Tensor y = at::linear(swiglu(at::linear(x_ND, experts.gate_up[e]), swiglu_path), experts.down[e]);
    sum = sum + weight_N.unsqueeze(1) * y;
  }
  return sum.to(x_ND.scalar_type());
}

}  // namespace

at::Tensor expert_counts(const at::Tensor& chosen_Nk, std::int64_t experts) {
  const at::Tensor chosen_M = chosen_Nk.reshape(-1);
  if (!chosen_M.is_cuda()) return at::bincount(chosen_M, {}, experts);
  // On CUDA the host would wait for bincount, which asks for the largest number. Sums of ones are the same in any order.
  return at::zeros({experts}, chosen_M.options()).scatter_add_(0, chosen_M, at::ones_like(chosen_M));
}

at::Tensor expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk, const ExpertWeights& experts,
                          Path path, Path swiglu_path) {
  TORCH_CHECK(chosen_Nk.sizes() == weights_Nk.sizes() && chosen_Nk.size(0) == x_ND.size(0), "experts: chosen ", chosen_Nk.sizes(),
              ", weights ", weights_Nk.sizes(), ", tokens ", x_ND.size(0));
  if (path == Path::kReference) return every_expert_on_every_token(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path);
  if (path == Path::kFused) return fused_expert_mixture(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path);
  const std::int64_t width = x_ND.size(1), k = chosen_Nk.size(1);
  const at::Tensor order_M = chosen_Nk.reshape(-1).argsort(/*stable=*/true), place_M = order_M.argsort();
  const Groups groups = groups_of(expert_counts(chosen_Nk, experts.gate_up.size(0)), x_ND);
  const at::Tensor inner = swiglu(grouped_linear(GatherTokens::apply(x_ND, order_M, place_M), experts.gate_up, groups), swiglu_path);
  const at::Tensor y_MD = UnsortRows::apply(grouped_linear(inner, experts.down, groups), order_M, place_M);
  return at::matmul(weights_Nk.unsqueeze(1), y_MD.view({-1, k, width}).to(weights_Nk.scalar_type())).squeeze(1).to(x_ND.scalar_type());
}

}  // namespace meristem::ops
