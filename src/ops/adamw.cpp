#include "ops/adamw.h"

#include <cmath>
#include <map>
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

// A range's part of each buffer.
AdamwTensors part_of(const AdamwTensors& flat, const AdamwRange& range) {
  const auto of = [&](const at::Tensor& buffer, std::int64_t begin) {
    return buffer.defined() ? buffer.narrow(0, begin, range.count) : buffer;
  };
  return {of(flat.master, range.master),      of(flat.grad, range.grad), of(flat.exp_avg, range.moments),
          of(flat.exp_avg_sq, range.moments), of(flat.half, range.grad), {}};
}

void adamw_reference(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                     const AdamwSettings& s) {
  if (!grad_scale.isfinite().item<bool>()) return;
  flat.counts_R.add_(1);
  const at::Tensor counts_R = flat.counts_R.cpu();
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    const Bias bias = bias_of(s, counts_R.data_ptr<std::int64_t>()[r]);
    const AdamwTensors part = part_of(flat, ranges[r]);
    const at::Tensor grad = part.grad * grad_scale;
    const at::Tensor &m = part.exp_avg, &v = part.exp_avg_sq, &p = part.master;
    m.mul_(s.beta1).add_(grad, 1 - s.beta1);
    v.mul_(s.beta2).addcmul_(grad, grad, 1 - s.beta2);
    p.mul_(1 - lr * ranges[r].weight_decay);
    p.sub_(lr * (m / bias.first) / (v.sqrt() / bias.second_sqrt + s.eps));
  }
}

void adamw_library(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                   const AdamwSettings& s) {
  // ATen divides the gradient by its grad_scale and writes it back; it takes the number of the update and leaves counting to us.
  const at::Tensor counts = grad_scale.isfinite(), refused = counts.logical_not().to(at::kFloat), inverse_scale = grad_scale.reciprocal();
  const std::vector<at::Tensor> t = flat.counts_R.add_(counts).to(at::kFloat).unbind();
  std::map<double, std::vector<std::size_t>> by_decay;
  for (std::size_t r = 0; r < ranges.size(); ++r) by_decay[ranges[r].weight_decay].push_back(r);
  for (const auto& [weight_decay, members] : by_decay) {
    std::vector<at::Tensor> p, g, m, v, steps;
    for (const std::size_t r : members) {
      const AdamwTensors part = part_of(flat, ranges[r]);
      p.push_back(part.master);
      g.push_back(part.grad);
      m.push_back(part.exp_avg);
      v.push_back(part.exp_avg_sq);
      steps.push_back(t[r]);
    }
    at::_fused_adamw_(p, g, m, v, {}, steps, lr, s.beta1, s.beta2, weight_decay, s.eps, /*amsgrad=*/false, /*maximize=*/false,
                      inverse_scale, refused);
  }
}

void adamw_fused_cpu(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                     const AdamwSettings& s) {
  const float scale = *grad_scale.data_ptr<float>();
  if (!std::isfinite(scale)) return;
  const auto& kernels = cpu::row_kernels();
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    const AdamwTensors part = part_of(flat, ranges[r]);
    const Bias bias = bias_of(s, ++flat.counts_R.data_ptr<std::int64_t>()[r]);
    const cpu::AdamwScalars scalars{*lr.data_ptr<float>(),
                                    static_cast<float>(s.beta1),
                                    static_cast<float>(s.beta2),
                                    static_cast<float>(s.eps),
                                    static_cast<float>(ranges[r].weight_decay),
                                    static_cast<float>(bias.first),
                                    static_cast<float>(bias.second_sqrt),
                                    scale};
    parallel_rows(ranges[r].count, [&](std::int64_t begin, std::int64_t end) {
      kernels.adamw(data_of<float>(part.master) + begin, data_of<float>(part.grad) + begin, data_of<float>(part.exp_avg) + begin,
                    data_of<float>(part.exp_avg_sq) + begin, part.half.defined() ? words(part.half) + begin : nullptr, end - begin,
                    scalars);
    });
  }
}

// Counts where the update counts, and works the bias corrections out in double on the device: (1 - b1^t, sqrt(1 - b2^t)) by range.
at::Tensor count_on_device(const AdamwTensors& flat, const at::Tensor& grad_scale, const AdamwSettings& s) {
  const at::Tensor t_R = flat.counts_R.add_(grad_scale.isfinite()).to(at::kDouble);
  const at::Tensor bias_R2 = at::empty({t_R.numel(), 2}, flat.master.options());
  bias_R2.select(1, 0).copy_(1 - at::pow(s.beta1, t_R));
  bias_R2.select(1, 1).copy_((1 - at::pow(s.beta2, t_R)).sqrt_());
  return bias_R2;
}

void adamw_fused_cuda(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                      const AdamwSettings& s) {
  const at::Tensor bias_R2 = count_on_device(flat, grad_scale, s);
  std::vector<kernels::AdamwRange> table;
  for (const AdamwRange& range : ranges) {
    table.push_back({range.grad, range.master, range.moments, range.count, static_cast<float>(range.weight_decay)});
  }
  const kernels::AdamwBuffers buffers{flat.master.data_ptr<float>(), flat.exp_avg.data_ptr<float>(), flat.exp_avg_sq.data_ptr<float>(),
                                      flat.grad.data_ptr<float>(), flat.half.defined() ? data_of<std::uint16_t>(flat.half) : nullptr};
  const kernels::AdamwConstants constants{static_cast<float>(s.beta1), static_cast<float>(s.beta2), static_cast<float>(s.eps)};
  kernels::adamw(buffers, table.data(), static_cast<int>(table.size()), constants, bias_R2.data_ptr<float>(), lr.data_ptr<float>(),
                 grad_scale.data_ptr<float>(), stream_of(flat.master));
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

void adamw_step(const AdamwTensors& flat, const std::vector<AdamwRange>& ranges, const at::Tensor& lr, const at::Tensor& grad_scale,
                const AdamwSettings& settings, Path path) {
  RECORD_FUNCTION("meristem::adamw", {});
  if (path == Path::kFused) {  // writes the bf16 copy itself
    (flat.master.is_cpu() ? adamw_fused_cpu : adamw_fused_cuda)(flat, ranges, lr, grad_scale, settings);
    return;
  }
  (path == Path::kReference ? adamw_reference : adamw_library)(flat, ranges, lr, grad_scale, settings);
  if (!flat.half.defined()) return;
  for (const AdamwRange& range : ranges) {
    const AdamwTensors part = part_of(flat, range);
    part.half.copy_(part.master);
  }
}

at::Tensor gradient_norm(const at::Tensor& flat_grad, Path path) {
  RECORD_FUNCTION("meristem::gradient_norm", {});
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
  RECORD_FUNCTION("meristem::accumulate_gradient", {});
  if (!sum.is_cpu() || x.scalar_type() != at::kBFloat16 || !x.is_contiguous()) {
    sum.add_(x);
    return;
  }
  parallel_rows(sum.numel(), [&](std::int64_t begin, std::int64_t end) {
    cpu::row_kernels().bf16.accumulate(data_of<float>(sum) + begin, data_of<std::uint16_t>(x) + begin, end - begin);
  });
}

}  // namespace meristem::ops
