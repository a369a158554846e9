#include "ops/rms_norm.h"

#include <torch/torch.h>

#include "ops/parallel_rows.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::Tensor wide = x.to(accumulate_type(x.scalar_type()));
  const at::Tensor rstd = (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  return (wide * rstd * w).to(x.scalar_type());
}

class FusedRmsNorm : public torch::autograd::Function<FusedRmsNorm> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& w, double eps) {
    const at::Tensor x = input.contiguous();
    const std::int64_t width = x.size(-1), rows = x.numel() / std::max<std::int64_t>(width, 1);
    at::Tensor y = at::empty_like(x), rstd = at::empty({rows}, x.options().dtype(at::kFloat));
    dispatch_cpu(x.scalar_type(), [&](const auto& kernels, auto type) {
      using X = decltype(type);
      parallel_rows(rows, [&](std::int64_t begin, std::int64_t end) {
        kernels.rms_norm(data_of<X>(x) + begin * width, data_of<float>(w), data_of<X>(y) + begin * width, data_of<float>(rstd) + begin,
                         end - begin, width, static_cast<float>(eps));
      });
    });
    context->save_for_backward({x, w, rstd});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[1], &rstd = saved[2];
    const at::Tensor dy = grads[0].contiguous();
    const std::int64_t width = x.size(-1), rows = rstd.numel(), chunks = at::get_num_threads();
    at::Tensor dx = at::empty_like(x), dw_chunks = at::zeros({chunks, width}, w.options());
    dispatch_cpu(x.scalar_type(), [&](const auto& kernels, auto type) {
      using X = decltype(type);
      parallel_chunks(rows, chunks, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
        kernels.rms_norm_backward(data_of<X>(dy) + begin * width, data_of<X>(x) + begin * width, data_of<float>(w),
                                  data_of<float>(rstd) + begin, data_of<X>(dx) + begin * width, data_of<float>(dw_chunks) + chunk * width,
                                  end - begin, width);
      });
    });
    return {dx, dw_chunks.sum(0), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Path path) {
  TORCH_CHECK(w.dim() == 1 && x.size(-1) == w.size(0), "rms_norm: x ", x.sizes(), " does not fit w ", w.sizes());
  if (path != Path::kFused) return rms_norm_reference(x, w, eps);
  return FusedRmsNorm::apply(x, w, eps);
}

}  // namespace meristem::ops
