#include "ops/fused_depth_attention.h"

#include <cmath>

#include <torch/torch.h>

#include "meristem_kernels/depth_attention.h"
#include "ops/cuda_stream.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::uint16_t* depth_words(const at::Tensor& t) { return static_cast<std::uint16_t*>(t.data_ptr()); }

// Rows that the kernels can read in place: whole 16 bytes apart, columns side by side.
at::Tensor depth_rows(const at::Tensor& x) {
  const bool in_place = x.stride(1) == 1 && x.stride(0) % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data_ptr()) % 16 == 0;
  return in_place ? x : x.contiguous();
}

kernels::DepthInput depth_input(const at::Tensor& x) { return {depth_words(x), x.stride(0)}; }
kernels::DepthOutput depth_output(const at::Tensor& x) { return {depth_words(x), x.stride(0)}; }

std::vector<kernels::DepthInput> depth_table(at::TensorList entries) {
  std::vector<kernels::DepthInput> table;
  for (const at::Tensor& entry : entries) table.push_back(depth_input(entry));
  return table;
}

kernels::DepthAttentionShape depth_shape(const at::Tensor& q, const HeadShape& shape, std::size_t entries) {
  return {static_cast<int>(q.size(0)),      static_cast<int>(shape.heads),
          static_cast<int>(shape.kv_heads), static_cast<int>(shape.head_dim),
          static_cast<int>(entries),        static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)))};
}

HeadShape head_shape(const c10::IValue& saved) {
  const auto numbers = saved.toIntVector();
  return {numbers[0], numbers[1], numbers[2]};
}

// `entries` holds all keys, then all values; so do the gradients that are returned, of dense rows. dq is written, or added to.
variable_list depth_entry_gradients(const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries, const HeadShape& shape,
                                    const at::Tensor& out, kernels::DepthLogSumExp log_sum_exp, const at::Tensor& dq,
                                    kernels::DepthGradient mode) {
  const std::size_t count = entries.size() / 2;
  const auto table = depth_table(entries);
  variable_list gradients;
  std::vector<kernels::DepthOutput> written;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    gradients.push_back(at::empty({q.size(0), shape.kv_columns()}, q.options()));
    written.push_back(depth_output(gradients.back()));
  }
  kernels::depth_attention_backward(depth_shape(q, shape, count), depth_input(q), table.data(), table.data() + count, depth_input(out),
                                    depth_input(d_out), log_sum_exp, depth_output(dq), written.data(), written.data() + count, mode,
                                    current_stream());
  return gradients;
}

kernels::DepthLogSumExp by_token(const at::Tensor& log_sum_exp_NH) { return {log_sum_exp_NH.data_ptr<float>(), log_sum_exp_NH.size(1), 1}; }

class FusedDepthAttention : public torch::autograd::Function<FusedDepthAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, at::TensorList entries,
                            const std::vector<std::int64_t>& numbers) {
    const HeadShape shape{numbers[0], numbers[1], numbers[2]};
    const std::size_t count = entries.size() / 2;
    const auto table = depth_table(entries);
    const at::Tensor out = at::empty({q.size(0), shape.query_columns()}, q.options());
    const at::Tensor log_sum_exp_NH = at::empty({q.size(0), shape.heads}, q.options().dtype(at::kFloat));
    kernels::depth_attention_forward(depth_shape(q, shape, count), depth_input(q), table.data(), table.data() + count, depth_output(out),
                                     by_token(log_sum_exp_NH), current_stream());
    variable_list saved{q, out, log_sum_exp_NH};
    saved.insert(saved.end(), entries.begin(), entries.end());
    context->save_for_backward(saved);
    context->saved_data["shape"] = numbers;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &out = saved[1], &log_sum_exp_NH = saved[2], dq = at::empty_like(out);
    variable_list gradients =
        depth_entry_gradients(depth_rows(grads[0]), q, at::TensorList(saved).slice(3), head_shape(context->saved_data["shape"]), out,
                              by_token(log_sum_exp_NH), dq, kernels::DepthGradient::kWrite);
    gradients.insert(gradients.begin(), dq);
    gradients.emplace_back();  // the shape
    return gradients;
  }
};

void check_bf16(const at::Tensor& q, at::TensorList entries) {
  for (const at::Tensor& x : entries) {
    TORCH_CHECK(x.scalar_type() == at::kBFloat16 && x.device() == q.device(),
                "depth attention: fused takes BFloat16 on one device, got an entry of ", x.scalar_type(), " on ", x.device());
  }
  TORCH_CHECK(q.scalar_type() == at::kBFloat16, "depth attention: fused takes BFloat16, got a query of ", q.scalar_type());
}

std::vector<at::Tensor> depth_entries(const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> entries;
  for (const auto* list : {&keys, &values}) {
    for (const at::Tensor& entry : *list) entries.push_back(depth_rows(entry));
  }
  return entries;
}

}  // namespace

at::Tensor fused_depth_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                                 const HeadShape& shape) {
  const auto entries = depth_entries(keys, values);
  check_bf16(q, entries);
  return FusedDepthAttention::apply(depth_rows(q), at::TensorList(entries),
                                    std::vector<std::int64_t>{shape.heads, shape.kv_heads, shape.head_dim});
}

}  // namespace meristem::ops
