#include "ops/fused_depth_attention.h"

#include <cmath>

#include <torch/torch.h>

#include "meristem_kernels/attention.h"
#include "meristem_kernels/depth_attention.h"
#include "ops/cuda_stream.h"
#include "ops/entry_gradients.h"

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

std::vector<kernels::DepthEntryGradient> gradient_table(const EntryGradients& gradients) {
  std::vector<kernels::DepthEntryGradient> table;
  for (std::size_t i = 0; i < gradients.all.size(); ++i) {
    table.push_back({depth_output(*gradients.all[i]), gradients.adds[i] ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite});
  }
  return table;
}

// `entries` holds all keys, then all values; so do the gradients that are returned, undefined where another call hands one on. dq is
// written, or added to.
variable_list depth_entry_gradients(const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries, const DepthCall& call,
                                    const at::Tensor& out, kernels::DepthLogSumExp log_sum_exp, const at::Tensor& dq,
                                    kernels::DepthGradient dq_mode) {
  const std::size_t count = entries.size() / 2;
  const auto side = [&](DepthGradients::Side DepthGradients::*of, std::size_t shared) {
    return EntryGradients(call.shared.of ? &((*call.shared.of).*of) : nullptr, shared, count, q.size(0), call.shape.kv_columns(),
                          q.options());
  };
  EntryGradients d_keys = side(&DepthGradients::keys, call.shared.keys), d_values = side(&DepthGradients::values, call.shared.values);
  const auto table = depth_table(entries);
  const auto key_table = gradient_table(d_keys), value_table = gradient_table(d_values);
  kernels::depth_attention_backward(depth_shape(q, call.shape, count), depth_input(q), table.data(), table.data() + count, depth_input(out),
                                    depth_input(d_out), log_sum_exp, depth_output(dq), dq_mode, key_table.data(), value_table.data(),
                                    current_stream());
  variable_list gradients(2 * count);
  for (std::size_t i = call.handed_on.keys; i < count; ++i) gradients[i] = std::move(*d_keys.all[i]);
  for (std::size_t i = call.handed_on.values; i < count; ++i) gradients[count + i] = std::move(*d_values.all[i]);
  return gradients;
}

kernels::DepthLogSumExp by_token(const at::Tensor& log_sum_exp_NH) { return {log_sum_exp_NH.data_ptr<float>(), log_sum_exp_NH.size(1), 1}; }

class FusedDepthAttention : public torch::autograd::Function<FusedDepthAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, at::TensorList entries,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const HeadShape& shape = call->shape;
    const std::size_t count = entries.size() / 2;
    const auto table = depth_table(entries);
    const at::Tensor out = at::empty({q.size(0), shape.query_columns()}, q.options());
    const at::Tensor log_sum_exp_NH = at::empty({q.size(0), shape.heads}, q.options().dtype(at::kFloat));
    kernels::depth_attention_forward(depth_shape(q, shape, count), depth_input(q), table.data(), table.data() + count, depth_output(out),
                                     by_token(log_sum_exp_NH), current_stream());
    variable_list saved{q, out, log_sum_exp_NH};
    saved.insert(saved.end(), entries.begin(), entries.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &out = saved[1], &log_sum_exp_NH = saved[2], dq = at::empty_like(out);
    variable_list gradients = depth_entry_gradients(depth_rows(grads[0]), q, at::TensorList(saved).slice(3), saved_call(context), out,
                                                    by_token(log_sum_exp_NH), dq, kernels::DepthGradient::kWrite);
    gradients.insert(gradients.begin(), dq);
    gradients.emplace_back();  // the call
    return gradients;
  }
};

// The packed projection's parts, in place.
template <class Matrix>
Matrix packed_part(const at::Tensor& qkv_NC, std::int64_t first_column, const HeadShape& shape) {
  return {depth_words(qkv_NC) + first_column, qkv_NC.stride(0), shape.head_dim};
}

kernels::AttentionShape causal_shape(const at::Tensor& qkv_NC, const HeadShape& shape, const at::Tensor& offsets) {
  const kernels::DepthAttentionShape numbers = depth_shape(qkv_NC, shape, 0);
  return {numbers.tokens,
          numbers.heads,
          numbers.kv_heads,
          numbers.head_dim,
          static_cast<int>(offsets.size(0)) - 1,
          offsets.data_ptr<std::int32_t>(),
          -1,
          0,
          numbers.scale};
}

kernels::DepthLogSumExp by_head(const at::Tensor& log_sum_exp_HN) { return {log_sum_exp_HN.data_ptr<float>(), 1, log_sum_exp_HN.size(1)}; }

class FusedJointAttention : public torch::autograd::Function<FusedJointAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, at::TensorList entries, const at::Tensor& offsets,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const HeadShape& shape = call->shape;
    const std::size_t count = entries.size() / 2;
    const auto table = depth_table(entries);
    const at::Tensor out = at::empty({qkv.size(0), shape.query_columns()}, qkv.options());
    const at::Tensor log_sum_exp_HN = at::empty({shape.heads, qkv.size(0)}, qkv.options().dtype(at::kFloat));
    using Input = kernels::AttentionInput;
    const std::int64_t k = shape.query_columns(), v = k + shape.kv_columns();
    kernels::attention_forward(causal_shape(qkv, shape, offsets), packed_part<Input>(qkv, 0, shape), packed_part<Input>(qkv, k, shape),
                               packed_part<Input>(qkv, v, shape), {depth_words(out), out.stride(0), shape.head_dim},
                               log_sum_exp_HN.data_ptr<float>(), current_stream());
    kernels::depth_attention_join(depth_shape(qkv, shape, count), depth_input(qkv), table.data(), table.data() + count, depth_output(out),
                                  by_head(log_sum_exp_HN), current_stream());
    variable_list saved{qkv, out, log_sum_exp_HN, offsets};
    saved.insert(saved.end(), entries.begin(), entries.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &out = saved[1], &log_sum_exp_HN = saved[2], d_out = depth_rows(grads[0]);
    const DepthCall& call = saved_call(context);
    const HeadShape& shape = call.shape;
    const at::Tensor d_qkv = at::empty({qkv.size(0), shape.columns()}, qkv.options()), delta = at::empty_like(log_sum_exp_HN);
    using Input = kernels::AttentionInput;
    using Output = kernels::AttentionOutput;
    const std::int64_t k = shape.query_columns(), v = k + shape.kv_columns();
    kernels::attention_backward(causal_shape(qkv, shape, saved[3]), packed_part<Input>(qkv, 0, shape), packed_part<Input>(qkv, k, shape),
                                packed_part<Input>(qkv, v, shape), {depth_words(out), out.stride(0), shape.head_dim},
                                {depth_words(d_out), d_out.stride(0), shape.head_dim}, log_sum_exp_HN.data_ptr<float>(),
                                delta.data_ptr<float>(), packed_part<Output>(d_qkv, 0, shape), packed_part<Output>(d_qkv, k, shape),
                                packed_part<Output>(d_qkv, v, shape), current_stream());
    variable_list gradients = depth_entry_gradients(d_out, qkv, at::TensorList(saved).slice(4), call, out, by_head(log_sum_exp_HN), d_qkv,
                                                    kernels::DepthGradient::kAdd);
    gradients.insert(gradients.begin(), d_qkv);
    gradients.resize(gradients.size() + 2);  // the offsets and the call
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
                                 const HeadShape& shape, const SharedEntries& shared) {
  const auto entries = depth_entries(keys, values);
  check_bf16(q, entries);
  return FusedDepthAttention::apply(depth_rows(q), at::TensorList(entries), make_call(shape, shared, q, entries));
}

at::Tensor fused_joint_attention(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                                 const HeadShape& shape, const Documents& documents, const SharedEntries& shared) {
  TORCH_CHECK(documents.offsets.defined(), "joint attention: the batch brought no offsets of its documents");
  const auto entries = depth_entries(keys, values);
  check_bf16(qkv_NC, entries);
  return FusedJointAttention::apply(depth_rows(qkv_NC), at::TensorList(entries), documents.offsets,
                                    make_call(shape, shared, qkv_NC, entries));
}

}  // namespace meristem::ops
