#include "ops/fused_attention.h"

#include <cmath>

#include <torch/torch.h>

#include "meristem_kernels/attention.h"
#include "ops/cuda_stream.h"

namespace meristem::ops {
namespace {

// The three parts of a packed projection, in place.
template <class Matrix, class Word>
struct PackedParts {
  Matrix q, k, v;

  PackedParts(Word* data, std::int64_t row_stride, const HeadShape& shape)
      : q{data, row_stride, shape.head_dim},
        k{data + shape.query_columns(), row_stride, shape.head_dim},
        v{data + shape.query_columns() + shape.kv_columns(), row_stride, shape.head_dim} {}
};

std::uint16_t* words(const at::Tensor& t) { return static_cast<std::uint16_t*>(t.data_ptr()); }

// Rows that the kernel can read in place: whole 16 bytes apart, columns side by side.
at::Tensor readable(const at::Tensor& x) {
  const bool in_place = x.stride(1) == 1 && x.stride(0) % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data_ptr()) % 16 == 0;
  return in_place ? x : x.contiguous();
}

kernels::AttentionShape kernel_shape(const at::Tensor& qkv_NC, const HeadShape& shape, const at::Tensor& offsets) {
  kernels::AttentionShape out{};
  out.tokens = static_cast<int>(qkv_NC.size(0));
  out.heads = static_cast<int>(shape.heads);
  out.kv_heads = static_cast<int>(shape.kv_heads);
  out.head_dim = static_cast<int>(shape.head_dim);
  out.documents = static_cast<int>(offsets.size(0)) - 1;
  out.offsets = offsets.data_ptr<std::int32_t>();
  out.window_left = -1;  // all tokens before itself
  out.window_right = 0;
  out.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  return out;
}

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& qkv_NC, const at::Tensor& offsets,
                            std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
    const HeadShape shape{heads, kv_heads, head_dim};
    const at::Tensor qkv = readable(qkv_NC);
    const at::Tensor out = at::empty({qkv.size(0), shape.query_columns()}, qkv.options());
    const at::Tensor log_sum_exp = at::empty({heads, qkv.size(0)}, qkv.options().dtype(at::kFloat));
    const PackedParts<kernels::AttentionInput, const std::uint16_t> in(words(qkv), qkv.stride(0), shape);
    kernels::attention_forward(kernel_shape(qkv, shape, offsets), in.q, in.k, in.v, {words(out), out.stride(0), head_dim},
                               log_sum_exp.data_ptr<float>(), current_stream());
    context->save_for_backward({qkv, out, log_sum_exp, offsets});
    context->saved_data["shape"] = std::vector<std::int64_t>{heads, kv_heads, head_dim};
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &out = saved[1], &log_sum_exp = saved[2], &offsets = saved[3];
    const std::vector<std::int64_t> numbers = context->saved_data["shape"].toIntVector();
    const HeadShape shape{numbers[0], numbers[1], numbers[2]};
    const at::Tensor d_out = readable(grads[0]);
    const at::Tensor d_qkv = at::empty({qkv.size(0), shape.columns()}, qkv.options()), delta = at::empty_like(log_sum_exp);
    const PackedParts<kernels::AttentionInput, const std::uint16_t> in(words(qkv), qkv.stride(0), shape);
    const PackedParts<kernels::AttentionOutput, std::uint16_t> d_in(words(d_qkv), d_qkv.stride(0), shape);
    kernels::attention_backward(kernel_shape(qkv, shape, offsets), in.q, in.k, in.v, {words(out), out.stride(0), shape.head_dim},
                                {words(d_out), d_out.stride(0), shape.head_dim}, log_sum_exp.data_ptr<float>(), delta.data_ptr<float>(),
                                d_in.q, d_in.k, d_in.v, current_stream());
    return {d_qkv, {}, {}, {}, {}};
  }
};

}  // namespace

Documents Documents::on(at::Device device) const {
  if (offsets.defined()) return *this;
  const at::Tensor made = at::zeros({static_cast<std::int64_t>(lengths.size()) + 1}, at::kInt);
  auto* starts = made.data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < lengths.size(); ++i) starts[i + 1] = starts[i] + static_cast<std::int32_t>(lengths[i]);
  return {lengths, made.to(device)};
}

at::Tensor fused_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents) {
  const at::Tensor& offsets = documents.offsets;
  TORCH_CHECK(qkv_NC.dim() == 2 && qkv_NC.size(1) == shape.columns() && qkv_NC.scalar_type() == at::kBFloat16, "attention: qkv is ",
              qkv_NC.sizes(), " of ", qkv_NC.scalar_type(), ", expected [N, ", shape.columns(), "] of BFloat16");
  TORCH_CHECK(offsets.defined(), "attention: the batch brought no offsets of its documents");
  TORCH_CHECK(offsets.scalar_type() == at::kInt && offsets.dim() == 1 && offsets.is_contiguous() && offsets.device() == qkv_NC.device(),
              "attention: offsets are ", offsets.sizes(), " of ", offsets.scalar_type(), ", expected int32 on ", qkv_NC.device());
  return FusedAttention::apply(qkv_NC, offsets, shape.heads, shape.kv_heads, shape.head_dim);
}

}  // namespace meristem::ops
