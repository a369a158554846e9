#include <limits>

#include <torch/torch.h>

#include "ops/attention_passes.h"
#include "ops/depth_attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

void check_nothing(const at::Tensor&, at::TensorList) {}

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

at::Tensor sequence_forward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out) {
  const at::Tensor lse_NH = at::empty({qkv_NC.size(0), shape.heads}, qkv_NC.options().dtype(at::kFloat));
  kAttentionPassesCpu.forward(qkv_NC, shape, documents.on(at::kCPU), out, lse_NH.t());
  return lse_NH;
}

void sequence_backward_cpu(const at::Tensor& d_out, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents,
                           const at::Tensor& out, const at::Tensor& lse_NH, const at::Tensor& d_qkv_NC) {
  kAttentionPassesCpu.backward(qkv_NC, shape, documents.on(at::kCPU), out, d_out, lse_NH.t(), d_qkv_NC);
}

}  // namespace

const DepthPasses kDepthPassesCpu{check_nothing, kAttentionPassesCpu.rows, forward_cpu,
                                  backward_cpu,  sequence_forward_cpu,     sequence_backward_cpu};

}  // namespace meristem::ops
