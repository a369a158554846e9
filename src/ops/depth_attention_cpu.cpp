#include "ops/depth_attention_cpu.h"

#include <limits>

#include <torch/torch.h>

#include "ops/entry_gradients.h"
#include "ops/parallel_rows.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows that are each without gaps, whatever the distance between them.
at::Tensor with_dense_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

template <class X>
cpu::Rows<const X> rows_of(const at::Tensor& x) {
  return {data_of<const X>(x), x.stride(0)};
}

template <class X>
std::vector<cpu::Rows<const X>> rows_of(at::TensorList entries) {
  std::vector<cpu::Rows<const X>> rows;
  for (const at::Tensor& entry : entries) rows.push_back(rows_of<X>(entry));
  return rows;
}

cpu::DepthShape kernel_shape(const HeadShape& shape, std::size_t entries) {
  return {static_cast<std::int64_t>(entries), shape.heads, shape.kv_heads, shape.head_dim};
}

std::size_t scratch_floats(const HeadShape& shape, std::int64_t of_a_pair) {
  return static_cast<std::size_t>(cpu::kDepthTokens * shape.heads * of_a_pair);
}

// y [N, H*K] and lse [N, H] float32 are changed in place.
void join_entries(const at::Tensor& q, at::TensorList keys, at::TensorList values, const HeadShape& shape, const at::Tensor& y,
                  const at::Tensor& lse) {
  dispatch_cpu(q.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto k = rows_of<X>(keys), v = rows_of<X>(values);
    parallel_rows(q.size(0), [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scratch(scratch_floats(shape, 2 * shape.head_dim + 2 + static_cast<std::int64_t>(keys.size())));
      kernels.depth_attention(rows_of<X>(q), k.data(), v.data(), data_of<X>(y), data_of<float>(lse), begin, end,
                              kernel_shape(shape, keys.size()), scratch.data());
    });
  });
}

template <class X>
std::vector<cpu::DepthGradient<X>> pointers_of(const EntryGradients& gradients) {
  std::vector<cpu::DepthGradient<X>> out;
  for (std::size_t i = 0; i < gradients.all.size(); ++i) out.push_back({data_of<X>(*gradients.all[i]), gradients.adds[i]});
  return out;
}

// {dq, dk of each entry, dv of each entry}; undefined where another call hands an entry's gradient on.
variable_list entry_gradients(const at::Tensor& dy, const at::Tensor& q, at::TensorList keys, at::TensorList values, const HeadShape& shape,
                              const at::Tensor& y, const at::Tensor& lse, const SharedEntries& shared, const HandedOn& handed_on) {
  const std::size_t entries = keys.size();
  const auto gradients = [&](DepthGradients::Side DepthGradients::*side, std::size_t count) {
    return EntryGradients(shared.of ? &((*shared.of).*side) : nullptr, count, entries, q.size(0), shape.kv_columns(), y.options());
  };
  EntryGradients dk = gradients(&DepthGradients::keys, shared.keys), dv = gradients(&DepthGradients::values, shared.values);
  variable_list grads(1 + 2 * entries);
  grads[0] = at::empty_like(y);
  dispatch_cpu(q.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto k = rows_of<X>(keys), v = rows_of<X>(values);
    const auto dk_rows = pointers_of<X>(dk), dv_rows = pointers_of<X>(dv);
    parallel_rows(q.size(0), [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scratch(scratch_floats(shape, 3 * shape.head_dim + 3));
      kernels.depth_attention_backward(rows_of<X>(dy), rows_of<X>(q), k.data(), v.data(), data_of<X>(y), data_of<float>(lse),
                                       data_of<X>(grads[0]), dk_rows.data(), dv_rows.data(), begin, end, kernel_shape(shape, entries),
                                       scratch.data());
    });
  });
  for (std::size_t i = handed_on.keys; i < entries; ++i) grads[1 + i] = std::move(*dk.all[i]);
  for (std::size_t i = handed_on.values; i < entries; ++i) grads[1 + entries + i] = std::move(*dv.all[i]);
  return grads;
}

// `entries` holds all keys, then all values.
at::TensorList keys_of(at::TensorList entries) { return entries.slice(0, entries.size() / 2); }
at::TensorList values_of(at::TensorList entries) { return entries.slice(entries.size() / 2); }

class DepthAttentionCpu : public torch::autograd::Function<DepthAttentionCpu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, at::TensorList entries,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const at::Tensor y = at::zeros({q.size(0), call->shape.query_columns()}, q.options());
    const at::Tensor lse = at::full({q.size(0), call->shape.heads}, -std::numeric_limits<float>::infinity(), q.options().dtype(at::kFloat));
    join_entries(q, keys_of(entries), values_of(entries), call->shape, y, lse);
    variable_list saved{q, y, lse};
    saved.insert(saved.end(), entries.begin(), entries.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::TensorList entries = at::TensorList(saved).slice(3);
    const DepthCall& call = saved_call(context);
    variable_list out = entry_gradients(with_dense_rows(grads[0]), saved[0], keys_of(entries), values_of(entries), call.shape, saved[1],
                                        saved[2], call.shared, call.handed_on);
    out.emplace_back();  // the call
    return out;
  }
};

// A run of sequences of equal length: rows [begin, begin + sequences * length).
struct Stretch {
  std::int64_t begin, sequences, length;
  at::Tensor of(const at::Tensor& x) const { return x.narrow(0, begin, sequences * length); }
};
std::vector<Stretch> stretches_of(const std::vector<std::int64_t>& lengths) {
  std::vector<Stretch> out;
  std::int64_t begin = 0;
  for (const std::int64_t length : lengths) {
    if (!out.empty() && out.back().length == length) {
      ++out.back().sequences;
    } else {
      out.push_back({begin, 1, length});
    }
    begin += length;
  }
  return out;
}

// Rows of `heads` heads -> [sequences, H, T, K]; key heads are repeated for the queries that share them.
at::Tensor split_heads(const at::Tensor& x, std::int64_t sequences, std::int64_t heads, const HeadShape& shape) {
  const at::Tensor split = x.view({sequences, -1, heads, shape.head_dim}).transpose(1, 2);
  return heads == shape.heads ? split : split.repeat_interleave(shape.heads / heads, 1);
}
// The gradient's way back: [sequences, H, T, K] -> rows of `heads` heads.
at::Tensor join_heads(const at::Tensor& x, std::int64_t heads, const HeadShape& shape) {
  const at::Tensor rows = x.transpose(1, 2).reshape({x.size(0) * x.size(2), heads, shape.heads / heads, shape.head_dim});
  return (heads == shape.heads ? rows.select(2, 0) : rows.sum(2)).reshape({rows.size(0), -1});
}

class JointAttentionCpu : public torch::autograd::Function<JointAttentionCpu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv_NC, at::TensorList entries,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const HeadShape& shape = call->shape;
    const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
    const at::Tensor y = at::empty({qkv_NC.size(0), shape.query_columns()}, qkv_NC.options());
    const at::Tensor lse = at::empty({qkv_NC.size(0), shape.heads}, qkv_NC.options().dtype(at::kFloat));
    for (const Stretch& stretch : stretches_of(call->lengths)) {
      const auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
          split_heads(stretch.of(parts[0]), stretch.sequences, shape.heads, shape),
          split_heads(stretch.of(parts[1]), stretch.sequences, shape.kv_heads, shape),
          split_heads(stretch.of(parts[2]), stretch.sequences, shape.kv_heads, shape), 0.0, /*is_causal=*/true);
      stretch.of(y).copy_(join_heads(out, shape.heads, shape));
      stretch.of(lse).copy_(sums.transpose(1, 2).reshape({-1, shape.heads}));
    }
    join_entries(parts[0], keys_of(entries), values_of(entries), shape, y, lse);
    variable_list saved{qkv_NC, y, lse};
    saved.insert(saved.end(), entries.begin(), entries.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const DepthCall& call = saved_call(context);
    const HeadShape& shape = call.shape;
    const at::TensorList entries = at::TensorList(saved).slice(3);
    const at::Tensor dy = with_dense_rows(grads[0]), &y = saved[1], &lse = saved[2];
    const auto parts = saved[0].split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
    variable_list out = entry_gradients(dy, parts[0], keys_of(entries), values_of(entries), shape, y, lse, call.shared, call.handed_on);
    const at::Tensor d_qkv = at::empty(saved[0].sizes(), saved[0].options());
    for (const Stretch& stretch : stretches_of(call.lengths)) {
      const auto heads_of = [&](const at::Tensor& x, std::int64_t heads) {
        return split_heads(stretch.of(x), stretch.sequences, heads, shape);
      };
      const at::Tensor sums = stretch.of(lse).view({stretch.sequences, stretch.length, shape.heads}).transpose(1, 2).contiguous();
      const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          heads_of(dy, shape.heads), heads_of(parts[0], shape.heads), heads_of(parts[1], shape.kv_heads),
          heads_of(parts[2], shape.kv_heads), heads_of(y, shape.heads), sums, 0.0, /*is_causal=*/true);
      const auto into = stretch.of(d_qkv).split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
      at::add_out(const_cast<at::Tensor&>(into[0]), join_heads(dq, shape.heads, shape), stretch.of(out[0]));
      into[1].copy_(join_heads(dk, shape.kv_heads, shape));
      into[2].copy_(join_heads(dv, shape.kv_heads, shape));
    }
    out[0] = d_qkv;
    out.emplace_back();  // the call
    return out;
  }
};

std::vector<at::Tensor> dense_entries(const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> entries;
  for (const auto* list : {&keys, &values}) {
    for (const at::Tensor& entry : *list) entries.push_back(with_dense_rows(entry));
  }
  return entries;
}

}  // namespace

at::Tensor depth_attention_cpu(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                               const HeadShape& shape, const SharedEntries& shared) {
  const auto entries = dense_entries(keys, values);
  return DepthAttentionCpu::apply(with_dense_rows(q), at::TensorList(entries), make_call(shape, shared, q, entries));
}

at::Tensor joint_attention_cpu(const at::Tensor& qkv_NC, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values,
                               const HeadShape& shape, const Documents& documents, const SharedEntries& shared) {
  const auto entries = dense_entries(keys, values);
  const auto call = make_call(shape, shared, qkv_NC, entries);
  call->lengths = documents.lengths;
  return JointAttentionCpu::apply(qkv_NC.contiguous(), at::TensorList(entries), call);
}

}  // namespace meristem::ops
