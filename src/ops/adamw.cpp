#include "ops/adamw.h"

#include <cmath>
#include <vector>

#include <torch/torch.h>

#include "meristem_kernels/adamw.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

struct Bias {
  double first, second_sqrt;
};

Bias bias_of(const AdamwSettings& s, std::int64_t t) {
  return {1 - std::pow(s.beta1, static_cast<double>(t)), std::sqrt(1 - std::pow(s.beta2, static_cast<double>(t)))};
}

void adamw_reference(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& s) {
  if (!grad_scale.isfinite().item<bool>()) return;
  const Bias bias = bias_of(s, segment.t);
  const at::Tensor grad = segment.grad * grad_scale;
  at::Tensor m = segment.exp_avg, v = segment.exp_avg_sq, p = segment.master;
  m.mul_(s.beta1).add_(grad, 1 - s.beta1);
  v.mul_(s.beta2).addcmul_(grad, grad, 1 - s.beta2);
  p.mul_(1 - lr * s.weight_decay);
  p.sub_(lr * (m / bias.first) / (v.sqrt() / bias.second_sqrt + s.eps));
}

void adamw_library(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& s) {
  // ATen divides the gradient by its grad_scale and writes it back; it counts steps from the number it is given.
  const at::Tensor found_inf = grad_scale.isfinite().logical_not().to(at::kFloat),
                   step = at::full({}, static_cast<double>(segment.t), segment.master.options());
  at::_fused_adamw_({segment.master}, {segment.grad}, {segment.exp_avg}, {segment.exp_avg_sq}, {}, {step}, lr, s.beta1, s.beta2,
                    s.weight_decay, s.eps, /*amsgrad=*/false, /*maximize=*/false, grad_scale.reciprocal(), found_inf);
}

void adamw_fused_cpu(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& s) {
  if (!std::isfinite(*grad_scale.data_ptr<float>())) return;
  const Bias bias = bias_of(s, segment.t);
  const cpu::AdamwScalars scalars{*lr.data_ptr<float>(),
                                  static_cast<float>(s.beta1),
                                  static_cast<float>(s.beta2),
                                  static_cast<float>(s.eps),
                                  static_cast<float>(s.weight_decay),
                                  static_cast<float>(bias.first),
                                  static_cast<float>(bias.second_sqrt),
                                  *grad_scale.data_ptr<float>()};
  const auto& kernels = cpu::row_kernels();
  std::uint16_t* half = segment.half.defined() ? data_of<std::uint16_t>(segment.half) : nullptr;
  parallel_rows(segment.master.numel(), [&](std::int64_t begin, std::int64_t end) {
    kernels.adamw(data_of<float>(segment.master) + begin, data_of<float>(segment.grad) + begin, data_of<float>(segment.exp_avg) + begin,
                  data_of<float>(segment.exp_avg_sq) + begin, half == nullptr ? nullptr : half + begin, end - begin, scalars);
  });
}

void adamw_fused_cuda(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& settings,
                      double bias1, double bias2_sqrt) {
  kernels::AdamwBuffers buffers;
  buffers.master = segment.master.data_ptr<float>();
  buffers.exp_avg = segment.exp_avg.data_ptr<float>();
  buffers.exp_avg_sq = segment.exp_avg_sq.data_ptr<float>();
  buffers.grad = segment.grad.data_ptr<float>();
  buffers.half = segment.half.defined() ? static_cast<std::uint16_t*>(segment.half.data_ptr()) : nullptr;
  const kernels::AdamwRange whole{0, segment.master.numel(), static_cast<float>(bias1), static_cast<float>(bias2_sqrt),
                                  static_cast<float>(settings.weight_decay)};
  const kernels::AdamwConstants constants{static_cast<float>(settings.beta1), static_cast<float>(settings.beta2),
                                          static_cast<float>(settings.eps)};
  kernels::adamw(buffers, &whole, 1, constants, lr.data_ptr<float>(), grad_scale.data_ptr<float>(), stream_of(segment.master));
}

// The sum of squares as a float64 scalar on the device.
at::Tensor squared_norm_cuda(const at::Tensor& flat) {
  TORCH_CHECK(reinterpret_cast<std::uintptr_t>(flat.data_ptr()) % 16 == 0,
              "the gradient's norm: the flat gradient is not aligned to 16 bytes");
  const at::Tensor partials = at::empty({kernels::kSquaredNormPartials}, flat.options().dtype(at::kDouble));
  const at::Tensor result = at::empty({}, partials.options());
  kernels::squared_norm(flat.data_ptr<float>(), flat.numel(), partials.data_ptr<double>(), result.data_ptr<double>(), stream_of(flat));
  return result;
}

}  // namespace

void adamw_step(const AdamwSegment& segment, const at::Tensor& lr, const at::Tensor& grad_scale, const AdamwSettings& settings, Path path) {
  if (path == Path::kFused) {
    if (segment.master.is_cpu()) {
      adamw_fused_cpu(segment, lr, grad_scale, settings);
    } else {
      const Bias bias = bias_of(settings, segment.t);
      adamw_fused_cuda(segment, lr, grad_scale, settings, bias.first, bias.second_sqrt);
    }
    return;  // writes the bf16 copy itself
  }
  (path == Path::kReference ? adamw_reference : adamw_library)(segment, lr, grad_scale, settings);
  if (segment.half.defined()) segment.half.copy_(segment.master);
}

at::Tensor gradient_norm(const at::Tensor& flat_grad, Path path) {
  if (path != Path::kFused) return at::linalg_vector_norm(flat_grad);
  if (!flat_grad.is_cpu()) return squared_norm_cuda(flat_grad).sqrt().to(at::kFloat);
  const std::int64_t chunks = at::get_num_threads();
  std::vector<double> sums(static_cast<std::size_t>(chunks));
  parallel_chunks(flat_grad.numel(), chunks, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    sums[static_cast<std::size_t>(chunk)] = cpu::row_kernels().sum_of_squares(data_of<float>(flat_grad) + begin, end - begin);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return at::scalar_tensor(std::sqrt(total), flat_grad.options());
}

void accumulate_gradient(at::Tensor& sum, const at::Tensor& x) {
  if (!sum.is_cpu() || x.scalar_type() != at::kBFloat16 || !x.is_contiguous()) {
    sum.add_(x);
    return;
  }
  parallel_rows(sum.numel(), [&](std::int64_t begin, std::int64_t end) {
    cpu::row_kernels().accumulate_bf16(data_of<float>(sum) + begin, data_of<std::uint16_t>(x) + begin, end - begin);
  });
}

}  // namespace meristem::ops
