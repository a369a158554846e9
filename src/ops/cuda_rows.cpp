#include "ops/cuda_rows.h"

#include <algorithm>

#include <ATen/Functions.h>
#include <c10/cuda/CUDAStream.h>

#include "meristem_kernels/adamw.h"
#include "meristem_kernels/cross_entropy.h"
#include "meristem_kernels/rms_norm.h"
#include "meristem_kernels/rope.h"
#include "meristem_kernels/swiglu.h"

namespace meristem::ops {
namespace {

kernels::Stream rows_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

kernels::Element element_type(const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, "our CUDA kernels take float32 or bfloat16, got ",
              t.scalar_type());
  TORCH_CHECK(t.is_contiguous(), "our CUDA kernels over rows take contiguous tensors");
  return t.scalar_type() == at::kFloat ? kernels::Element::kFloat : kernels::Element::kBf16;
}

void* data_or_null(const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

kernels::RmsNormShape norm_shape(const at::Tensor& x) {
  const std::int64_t width = x.size(-1);
  return {x.numel() / std::max<std::int64_t>(width, 1), static_cast<int>(width), element_type(x)};
}

kernels::SwigluShape swiglu_shape(const at::Tensor& gate_up) {
  return {gate_up.size(0), static_cast<int>(gate_up.size(1) / 2), element_type(gate_up)};
}

kernels::RopeShape rope_shape(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table) {
  return {x_NC.size(0),
          static_cast<int>(heads),
          static_cast<int>(2 * table.cos.size(1)),
          element_type(x_NC),
          positions_N.data_ptr<std::int32_t>(),
          table.cos.data_ptr<float>(),
          table.sin.data_ptr<float>()};
}

kernels::QkNorm qk_norm_of(const QkNorm& norm) {
  return {static_cast<int>(norm.query_heads), static_cast<float>(norm.eps), norm.q_gain.data_ptr<float>(), norm.k_gain.data_ptr<float>()};
}

}  // namespace

void rms_norm_cuda(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, const at::Tensor& h, const at::Tensor& y,
                   const at::Tensor& rstd) {
  kernels::rms_norm_forward(norm_shape(x), x.data_ptr(), data_or_null(update), w.data_ptr<float>(), static_cast<float>(eps),
                            data_or_null(h), y.data_ptr(), rstd.data_ptr<float>(), rows_stream());
}

at::Tensor rms_norm_backward_cuda(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& w, const at::Tensor& rstd,
                                  const at::Tensor& dh, const at::Tensor& dx) {
  const at::Tensor dw = at::empty_like(w), partials = at::empty({kernels::kRmsNormScratch}, w.options());
  kernels::rms_norm_backward(norm_shape(h), dy.data_ptr(), h.data_ptr(), w.data_ptr<float>(), rstd.data_ptr<float>(), data_or_null(dh),
                             dx.data_ptr(), dw.data_ptr<float>(), partials.data_ptr<float>(), rows_stream());
  return dw;
}

void swiglu_cuda(const at::Tensor& gate_up, const at::Tensor& y) {
  kernels::swiglu_forward(swiglu_shape(gate_up), gate_up.data_ptr(), y.data_ptr(), rows_stream());
}

void swiglu_backward_cuda(const at::Tensor& dy, const at::Tensor& gate_up, const at::Tensor& d_gate_up) {
  kernels::swiglu_backward(swiglu_shape(gate_up), dy.data_ptr(), gate_up.data_ptr(), d_gate_up.data_ptr(), rows_stream());
}

void rope_cuda(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, float sign) {
  kernels::rope(rope_shape(x_NC, heads, positions_N, table), x_NC.data_ptr(), x_NC.stride(0), sign, rows_stream());
}

void qk_norm_rope_cuda(const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N, const RopeTable& table,
                       const at::Tensor& y_NC) {
  kernels::qk_norm_rope_forward(rope_shape(x_NC, norm.query_heads + norm.key_heads, positions_N, table), qk_norm_of(norm),
                                static_cast<int>(x_NC.size(1)), x_NC.data_ptr(), x_NC.stride(0), y_NC.data_ptr(), y_NC.stride(0),
                                rows_stream());
}

at::Tensor qk_norm_rope_backward_cuda(const at::Tensor& dy_NC, const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N,
                                      const RopeTable& table, const at::Tensor& dx_NC) {
  const std::int64_t head_dim = norm.q_gain.size(0);
  const at::Tensor d_gains = at::empty({2, head_dim}, norm.q_gain.options());
  const at::Tensor partials = at::empty({kernels::kRopePartials * 2 * head_dim}, norm.q_gain.options());
  kernels::qk_norm_rope_backward(rope_shape(x_NC, norm.query_heads + norm.key_heads, positions_N, table), qk_norm_of(norm),
                                 static_cast<int>(x_NC.size(1)), dy_NC.data_ptr(), dy_NC.stride(0), x_NC.data_ptr(), x_NC.stride(0),
                                 dx_NC.data_ptr(), dx_NC.stride(0), d_gains.data_ptr<float>(), partials.data_ptr<float>(), rows_stream());
  return d_gains;
}

void cross_entropy_cuda(const at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& losses_C, bool with_grad) {
  kernels::cross_entropy({logits_CV.size(0), static_cast<int>(logits_CV.size(1)), element_type(logits_CV)}, logits_CV.data_ptr(),
                         targets_C.data_ptr<std::int32_t>(), losses_C.data_ptr<float>(), with_grad, rows_stream());
}

at::Tensor squared_norm_cuda(const at::Tensor& flat) {
  TORCH_CHECK(reinterpret_cast<std::uintptr_t>(flat.data_ptr()) % 16 == 0,
              "the gradient's norm: the flat gradient is not aligned to 16 bytes");
  const at::Tensor partials = at::empty({kernels::kSquaredNormPartials}, flat.options().dtype(at::kDouble));
  const at::Tensor result = at::empty({}, partials.options());
  kernels::squared_norm(flat.data_ptr<float>(), flat.numel(), partials.data_ptr<double>(), result.data_ptr<double>(), rows_stream());
  return result;
}

}  // namespace meristem::ops
