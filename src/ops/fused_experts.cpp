#include "ops/fused_experts.h"

#include <torch/torch.h>

#include "meristem_kernels/experts.h"
#include "ops/cuda_stream.h"
#include "ops/grouped_linear.h"
#include "ops/swiglu.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::uint16_t* row_words(const at::Tensor& t) { return static_cast<std::uint16_t*>(t.data_ptr()); }

kernels::ExpertShape expert_shape(const at::Tensor& place_Nk, std::int64_t experts, std::int64_t width) {
  return {static_cast<int>(place_Nk.size(0)), static_cast<int>(place_Nk.size(1)), static_cast<int>(experts), static_cast<int>(width)};
}

// The number of experts does not matter once the choices are sorted; k is the fewest.
kernels::ExpertShape rows_shape(const at::Tensor& place_Nk, std::int64_t width) { return expert_shape(place_Nk, place_Nk.size(1), width); }

struct SortedChoices {
  at::Tensor place_Nk, ends_E;  // int32: each choice's row, and one behind each expert's last row
};

SortedChoices sort_choices(const at::Tensor& chosen_Nk, std::int64_t experts) {
  const auto numbers = chosen_Nk.options().dtype(at::kInt);
  const SortedChoices sorted{at::empty_like(chosen_Nk, numbers, at::MemoryFormat::Contiguous), at::empty({experts}, numbers)};
  const kernels::ExpertShape shape = expert_shape(sorted.place_Nk, experts, 8);
  const at::Tensor scratch = at::empty({kernels::expert_sort_scratch(shape)}, numbers);
  kernels::expert_sort(shape, chosen_Nk.contiguous().data_ptr<std::int64_t>(), scratch.data_ptr<std::int32_t>(),
                       sorted.place_Nk.data_ptr<std::int32_t>(), sorted.ends_E.data_ptr<std::int32_t>(), current_stream());
  return sorted;
}

// [N, D] -> [M, D], sorted; backward sums each token's k gradients.
class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_ND, const at::Tensor& place_Nk) {
    context->save_for_backward({place_Nk});
    const at::Tensor x = x_ND.contiguous(), rows = at::empty({place_Nk.numel(), x.size(1)}, x.options());
    kernels::expert_gather(rows_shape(place_Nk, x.size(1)), row_words(x), place_Nk.data_ptr<std::int32_t>(), row_words(rows),
                           current_stream());
    return rows;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor place_Nk = context->get_saved_variables()[0], d_rows = grads[0].contiguous();
    const at::Tensor dx = at::empty({place_Nk.size(0), d_rows.size(1)}, d_rows.options());
    kernels::expert_combine(rows_shape(place_Nk, d_rows.size(1)), row_words(d_rows), place_Nk.data_ptr<std::int32_t>(), nullptr,
                            row_words(dx), current_stream());
    return {dx, {}};
  }
};

// [M, D], sorted, weights [N, k] -> [N, D]
class CombineRows : public torch::autograd::Function<CombineRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_MD, const at::Tensor& weights_Nk, const at::Tensor& place_Nk) {
    const at::Tensor rows = rows_MD.contiguous(), weights = weights_Nk.contiguous();
    context->save_for_backward({rows, weights, place_Nk});
    const at::Tensor y = at::empty({place_Nk.size(0), rows.size(1)}, rows.options());
    kernels::expert_combine(rows_shape(place_Nk, rows.size(1)), row_words(rows), place_Nk.data_ptr<std::int32_t>(),
                            weights.data_ptr<float>(), row_words(y), current_stream());
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &weights = saved[1], &place_Nk = saved[2], dy = grads[0].contiguous();
    const at::Tensor d_rows = at::empty_like(rows), d_weights = at::empty_like(weights);
    kernels::expert_combine_backward(rows_shape(place_Nk, rows.size(1)), row_words(dy), row_words(rows), place_Nk.data_ptr<std::int32_t>(),
                                     weights.data_ptr<float>(), row_words(d_rows), d_weights.data_ptr<float>(), current_stream());
    return {d_rows, d_weights, {}};
  }
};

}  // namespace

at::Tensor fused_expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                                const ExpertWeights& experts, Path swiglu_path) {
  TORCH_CHECK(x_ND.scalar_type() == at::kBFloat16 && weights_Nk.scalar_type() == at::kFloat && chosen_Nk.scalar_type() == at::kLong,
              "experts: fused takes BFloat16, Float weights and Long choices, got ", x_ND.scalar_type(), ", ", weights_Nk.scalar_type(),
              ", ", chosen_Nk.scalar_type());
  const SortedChoices sorted = sort_choices(chosen_Nk, experts.gate_up.size(0));
  const Groups groups = groups_ending_at(sorted.ends_E, x_ND);
  const at::Tensor inner = swiglu(grouped_linear(GatherRows::apply(x_ND, sorted.place_Nk), experts.gate_up, groups), swiglu_path);
  return CombineRows::apply(grouped_linear(inner, experts.down, groups), weights_Nk, sorted.place_Nk);
}

}  // namespace meristem::ops
