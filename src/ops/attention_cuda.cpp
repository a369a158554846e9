#include <cmath>

#include <ATen/Context.h>

#include "meristem_kernels/attention.h"
#include "ops/attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

void check_bf16(const at::Tensor& qkv_NC, const HeadShape& shape) {
  TORCH_CHECK(qkv_NC.scalar_type() == at::kBFloat16, "attention: qkv is ", qkv_NC.sizes(), " of ", qkv_NC.scalar_type(), ", expected [N, ",
              shape.columns(), "] of BFloat16");
}

// The three parts of a packed projection, in place.
template <class Matrix, class Word>
struct PackedParts {
  Matrix q, k, v;

  PackedParts(Word* data, std::int64_t row_stride, const HeadShape& shape)
      : q{data, row_stride, shape.head_dim},
        k{data + shape.query_columns(), row_stride, shape.head_dim},
        v{data + shape.query_columns() + shape.kv_columns(), row_stride, shape.head_dim} {}
};
using InputParts = PackedParts<kernels::AttentionInput, const std::uint16_t>;
using OutputParts = PackedParts<kernels::AttentionOutput, std::uint16_t>;

kernels::AttentionShape kernel_shape(const at::Tensor& qkv_NC, const HeadShape& shape, const at::Tensor& offsets) {
  kernels::AttentionShape out{};
  out.tokens = static_cast<int>(qkv_NC.size(0));
  out.heads = static_cast<int>(shape.heads);
  out.kv_heads = static_cast<int>(shape.kv_heads);
  out.head_dim = static_cast<int>(shape.head_dim);
  out.documents = static_cast<int>(offsets.size(0)) - 1;
  out.offsets = offsets.data_ptr<std::int32_t>();
  out.window_left = static_cast<int>(shape.window) - 1;  // -1: all tokens before itself
  out.window_right = 0;
  out.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  return out;
}

void forward_cuda(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                  const at::Tensor& log_sum_exp_HN) {
  const InputParts in(words(qkv_NC), qkv_NC.stride(0), shape);
  kernels::attention_forward(kernel_shape(qkv_NC, shape, documents.offsets), in.q, in.k, in.v, {words(out), out.stride(0), shape.head_dim},
                             log_sum_exp_HN.data_ptr<float>(), stream_of(qkv_NC));
}

void backward_cuda(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                   const at::Tensor& d_out, const at::Tensor& log_sum_exp_HN, const at::Tensor& d_qkv_NC) {
  const at::Tensor delta = at::empty_like(log_sum_exp_HN);
  const kernels::AttentionShape of = kernel_shape(qkv_NC, shape, documents.offsets);
  // Adding dQ up takes five products where an order of summation takes seven (run.deterministic).
  const std::int64_t sums = at::globalContext().deterministicAlgorithms() ? 0 : kernels::attention_sums(of);
  const at::Tensor dq_sums = sums == 0 ? at::Tensor() : at::empty({sums}, delta.options());
  const InputParts in(words(qkv_NC), qkv_NC.stride(0), shape);
  const OutputParts d_in(words(d_qkv_NC), d_qkv_NC.stride(0), shape);
  kernels::attention_backward(of, in.q, in.k, in.v, {words(out), out.stride(0), shape.head_dim},
                              {words(d_out), d_out.stride(0), shape.head_dim}, log_sum_exp_HN.data_ptr<float>(), delta.data_ptr<float>(),
                              sums == 0 ? nullptr : dq_sums.data_ptr<float>(), d_in.q, d_in.k, d_in.v, stream_of(qkv_NC));
}

}  // namespace

const AttentionPasses kAttentionPassesCuda{check_bf16, readable, forward_cuda, backward_cuda};

}  // namespace meristem::ops
