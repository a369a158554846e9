#include <limits>

#include <torch/torch.h>

#include "ops/depth_attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

void check_nothing(const at::Tensor&, at::TensorList) {}

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

at::Tensor forward_cpu(const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                       const at::Tensor& before) {
  at::Tensor lse_NH = before;
  if (!before.defined()) {
    lse_NH = at::full({q.size(0), shape.heads}, -std::numeric_limits<float>::infinity(), q.options().dtype(at::kFloat));
    out.zero_();
  }
  join_entries(q, entries.slice(0, entries.size() / 2), entries.slice(entries.size() / 2), shape, out, lse_NH);
  return lse_NH;
}

void backward_cpu(const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                  const at::Tensor& lse_NH, const at::Tensor& dq, bool adds, EntryGradients& d_keys, EntryGradients& d_values) {
  const std::size_t count = entries.size() / 2;
  const at::Tensor part = adds ? at::empty(dq.sizes(), dq.options()) : dq;
  dispatch_cpu(q.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto k = rows_of<X>(entries.slice(0, count)), v = rows_of<X>(entries.slice(count));
    const auto dk = pointers_of<X>(d_keys), dv = pointers_of<X>(d_values);
    parallel_rows(q.size(0), [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scratch(scratch_floats(shape, 3 * shape.head_dim + 3));
      kernels.depth_attention_backward(rows_of<X>(d_out), rows_of<X>(q), k.data(), v.data(), data_of<X>(out), data_of<float>(lse_NH),
                                       data_of<X>(part), dk.data(), dv.data(), begin, end, kernel_shape(shape, count), scratch.data());
    });
  });
  if (adds) dq.add_(part);
}

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

std::vector<at::Tensor> parts_of(const at::Tensor& packed, const HeadShape& shape) {
  return packed.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
}

at::Tensor sequence_forward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out) {
  const auto parts = parts_of(qkv_NC, shape);
  const at::Tensor lse_NH = at::empty({qkv_NC.size(0), shape.heads}, qkv_NC.options().dtype(at::kFloat));
  for (const Stretch& stretch : stretches_of(documents.lengths)) {
    const auto [y, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
        split_heads(stretch.of(parts[0]), stretch.sequences, shape.heads, shape),
        split_heads(stretch.of(parts[1]), stretch.sequences, shape.kv_heads, shape),
        split_heads(stretch.of(parts[2]), stretch.sequences, shape.kv_heads, shape), 0.0, /*is_causal=*/true);
    stretch.of(out).copy_(join_heads(y, shape.heads, shape));
    stretch.of(lse_NH).copy_(sums.transpose(1, 2).reshape({-1, shape.heads}));
  }
  return lse_NH;
}

void sequence_backward_cpu(const at::Tensor& d_out, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents,
                           const at::Tensor& out, const at::Tensor& lse_NH, const at::Tensor& d_qkv_NC) {
  const auto parts = parts_of(qkv_NC, shape);
  for (const Stretch& stretch : stretches_of(documents.lengths)) {
    const auto heads_of = [&](const at::Tensor& x, std::int64_t heads) {
      return split_heads(stretch.of(x), stretch.sequences, heads, shape);
    };
    const at::Tensor sums = stretch.of(lse_NH).view({stretch.sequences, stretch.length, shape.heads}).transpose(1, 2).contiguous();
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        heads_of(d_out, shape.heads), heads_of(parts[0], shape.heads), heads_of(parts[1], shape.kv_heads),
        heads_of(parts[2], shape.kv_heads), heads_of(out, shape.heads), sums, 0.0, /*is_causal=*/true);
    const auto into = parts_of(stretch.of(d_qkv_NC), shape);
    into[0].copy_(join_heads(dq, shape.heads, shape));
    into[1].copy_(join_heads(dk, shape.kv_heads, shape));
    into[2].copy_(join_heads(dv, shape.kv_heads, shape));
  }
}

}  // namespace

const DepthPasses kDepthPassesCpu{check_nothing, with_dense_rows, forward_cpu, backward_cpu, sequence_forward_cpu, sequence_backward_cpu};

}  // namespace meristem::ops
