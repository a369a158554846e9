#include "ops/rms_norm.h"

#include <torch/torch.h>

#include "meristem_kernels/rms_norm.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::Tensor wide = x.to(accumulate_type(x.scalar_type()));
  const at::Tensor rstd = (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  return (wide * rstd * w).to(x.scalar_type());
}

kernels::RmsNormShape norm_shape(const at::Tensor& x) {
  const std::int64_t width = x.size(-1);
  return {x.numel() / std::max<std::int64_t>(width, 1), static_cast<int>(width), element_type(x)};
}

// h = x + update where update is defined, else x; y = norm of h times w. y, rstd [rows] and, with an update, h are written.
void rms_norm_cuda(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, const at::Tensor& h, const at::Tensor& y,
                   const at::Tensor& rstd) {
  kernels::rms_norm_forward(norm_shape(x), x.data_ptr(), data_or_null(update), w.data_ptr<float>(), static_cast<float>(eps),
                            data_or_null(h), y.data_ptr(), rstd.data_ptr<float>(), stream_of(x));
}

// dh: the gradient that h has of its own, or undefined. Writes dx, returns the gradient of w.
at::Tensor rms_norm_backward_cuda(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& w, const at::Tensor& rstd,
                                  const at::Tensor& dh, const at::Tensor& dx) {
  const at::Tensor dw = at::empty_like(w), partials = at::empty({kernels::kRmsNormScratch}, w.options());
  kernels::rms_norm_backward(norm_shape(h), dy.data_ptr(), h.data_ptr(), w.data_ptr<float>(), rstd.data_ptr<float>(), data_or_null(dh),
                             dx.data_ptr(), dw.data_ptr<float>(), partials.data_ptr<float>(), stream_of(h));
  return dw;
}

class FusedRmsNorm : public torch::autograd::Function<FusedRmsNorm> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& w, double eps) {
    RECORD_FUNCTION("meristem::rms_norm", {});
    const at::Tensor x = input.contiguous();
    const std::int64_t width = x.size(-1), rows = x.numel() / std::max<std::int64_t>(width, 1);
    at::Tensor y = at::empty_like(x), rstd = at::empty({rows}, x.options().dtype(at::kFloat));
    if (x.is_cpu()) {
      dispatch_cpu(x.scalar_type(), [&](const auto& kernels, auto type) {
        using X = decltype(type);
        parallel_rows(rows, [&](std::int64_t begin, std::int64_t end) {
          kernels.rms_norm(data_of<X>(x) + begin * width, data_of<float>(w), data_of<X>(y) + begin * width, data_of<float>(rstd) + begin,
                           end - begin, width, static_cast<float>(eps));
        });
      });
    } else {
      rms_norm_cuda(x, {}, w, eps, {}, y, rstd);
    }
    context->save_for_backward({x, w, rstd});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[1], &rstd = saved[2];
    const at::Tensor dy = grads[0].contiguous();
    const std::int64_t width = x.size(-1), rows = rstd.numel(), chunks = at::get_num_threads();
    at::Tensor dx = at::empty_like(x);
    if (!x.is_cpu()) return {dx, rms_norm_backward_cuda(dy, x, w, rstd, {}, dx), at::Tensor()};
    at::Tensor dw_chunks = at::zeros({chunks, width}, w.options());
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

// In one pass over memory, on a CUDA device.
class FusedAddRmsNorm : public torch::autograd::Function<FusedAddRmsNorm> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                                                const at::Tensor& update, const at::Tensor& w, double eps) {
    const at::Tensor x = input.contiguous();
    const std::int64_t rows = x.numel() / std::max<std::int64_t>(x.size(-1), 1);
    at::Tensor h = at::empty_like(x), y = at::empty_like(x), rstd = at::empty({rows}, x.options().dtype(at::kFloat));
    rms_norm_cuda(x, update.contiguous(), w, eps, h, y, rstd);
    context->save_for_backward({h, w, rstd});
    context->set_materialize_grads(false);  // where the sum goes nowhere else, its gradient is not read
    return {h, y};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    if (!grads[1].defined()) return {grads[0], grads[0], at::Tensor(), at::Tensor()};
    const at::Tensor dh = grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    at::Tensor dx = at::empty_like(saved[0]);
    const at::Tensor dw = rms_norm_backward_cuda(grads[1].contiguous(), saved[0], saved[1], saved[2], dh, dx);
    return {dx, dx, dw, at::Tensor()};
  }
};

}  // namespace

AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, Path path) {
  RECORD_FUNCTION("meristem::add_rms_norm", {});
  TORCH_CHECK(x.sizes() == update.sizes() && x.scalar_type() == update.scalar_type(), "add_rms_norm: ", x.sizes(), " + ", update.sizes());
  if (path == Path::kFused && !x.is_cpu()) {
    const auto out = FusedAddRmsNorm::apply(x, update, w, eps);
    return {out[0], out[1]};
  }
  const at::Tensor sum = x + update;
  return {sum, rms_norm(sum, w, eps, path)};
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Path path) {
  TORCH_CHECK(w.dim() == 1 && x.size(-1) == w.size(0), "rms_norm: x ", x.sizes(), " does not fit w ", w.sizes());
  if (path != Path::kFused) return rms_norm_reference(x, w, eps);
  return FusedRmsNorm::apply(x, w, eps);
}

}  // namespace meristem::ops
