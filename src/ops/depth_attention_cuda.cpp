#include <cmath>

#include <torch/torch.h>

#include "meristem_kernels/depth_attention.h"
#include "ops/attention_passes.h"
#include "ops/depth_attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

kernels::DepthInput depth_input(const at::Tensor& x) { return {words(x), x.stride(0)}; }
kernels::DepthOutput depth_output(const at::Tensor& x) { return {words(x), x.stride(0)}; }
kernels::DepthLogSumExp strided(const at::Tensor& lse_NH) { return {lse_NH.data_ptr<float>(), lse_NH.stride(0), lse_NH.stride(1)}; }

std::vector<kernels::DepthInput> input_table(at::TensorList entries) {
  std::vector<kernels::DepthInput> table;
  for (const at::Tensor& entry : entries) table.push_back(depth_input(entry));
  return table;
}

std::vector<kernels::DepthEntryGradient> gradient_table(const EntryGradients& gradients) {
  std::vector<kernels::DepthEntryGradient> table;
  for (std::size_t i = 0; i < gradients.all.size(); ++i) {
    table.push_back({depth_output(*gradients.all[i]), gradients.adds[i] ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite});
  }
  return table;
}

kernels::DepthAttentionShape depth_shape(const at::Tensor& q, const HeadShape& shape, std::size_t entries) {
  return {static_cast<int>(q.size(0)),      static_cast<int>(shape.heads),
          static_cast<int>(shape.kv_heads), static_cast<int>(shape.head_dim),
          static_cast<int>(entries),        static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)))};
}

void check_bf16(const at::Tensor& q, at::TensorList entries) {
  for (const at::Tensor& x : entries) {
    TORCH_CHECK(x.scalar_type() == at::kBFloat16 && x.device() == q.device(),
                "depth attention: fused takes BFloat16 on one device, got an entry of ", x.scalar_type(), " on ", x.device());
  }
  TORCH_CHECK(q.scalar_type() == at::kBFloat16, "depth attention: fused takes BFloat16, got a query of ", q.scalar_type());
}

at::Tensor forward_cuda(const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                        const at::Tensor& before) {
  const std::size_t count = entries.size() / 2;
  const auto table = input_table(entries);
  const bool joins = before.defined();
  const at::Tensor lse_NH = joins ? before : at::empty({q.size(0), shape.heads}, q.options().dtype(at::kFloat));
  (joins ? kernels::depth_attention_join : kernels::depth_attention_forward)(
      depth_shape(q, shape, count), depth_input(q), table.data(), table.data() + count, depth_output(out), strided(lse_NH), stream_of(q));
  return lse_NH;
}

void backward_cuda(const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries, const HeadShape& shape, const at::Tensor& out,
                   const at::Tensor& lse_NH, const at::Tensor& dq, bool adds, EntryGradients& d_keys, EntryGradients& d_values) {
  const std::size_t count = entries.size() / 2;
  const auto table = input_table(entries);
  const auto key_table = gradient_table(d_keys), value_table = gradient_table(d_values);
  kernels::depth_attention_backward(depth_shape(q, shape, count), depth_input(q), table.data(), table.data() + count, depth_input(out),
                                    depth_input(d_out), strided(lse_NH), depth_output(dq),
                                    adds ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite, key_table.data(),
                                    value_table.data(), stream_of(q));
}

at::Tensor sequence_forward_cuda(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out) {
  TORCH_CHECK(documents.offsets.defined(), "joint attention: the batch brought no offsets of its documents");
  const at::Tensor lse_HN = at::empty({shape.heads, qkv_NC.size(0)}, qkv_NC.options().dtype(at::kFloat));
  kAttentionPassesCuda.forward(qkv_NC, shape, documents, out, lse_HN);
  return lse_HN.t();
}

void sequence_backward_cuda(const at::Tensor& d_out, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents,
                            const at::Tensor& out, const at::Tensor& lse_NH, const at::Tensor& d_qkv_NC) {
  kAttentionPassesCuda.backward(qkv_NC, shape, documents, out, d_out, lse_NH.t(), d_qkv_NC);
}

}  // namespace

const DepthPasses kDepthPassesCuda{check_bf16, readable, forward_cuda, backward_cuda, sequence_forward_cuda, sequence_backward_cuda};

}  // namespace meristem::ops
