#include "ops/rms_norm.h"

#include <optional>

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

// Element `i` of a tensor that may be undefined.
template <class X>
X* element(const at::Tensor& t, std::int64_t i) {
  return t.defined() ? data_of<X>(t) + i : nullptr;
}

// h = x + update where update is defined, else x; y = norm of h times w. y, rstd [rows] and, with an update, h are written.
void norm_forward(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, const at::Tensor& h, const at::Tensor& y,
                  const at::Tensor& rstd) {
  const std::int64_t width = x.size(-1);
  if (!x.is_cpu()) {
    kernels::rms_norm_forward(norm_shape(x), x.data_ptr(), data_or_null(update), w.data_ptr<float>(), static_cast<float>(eps),
                              data_or_null(h), y.data_ptr(), rstd.data_ptr<float>(), stream_of(x));
    return;
  }
  dispatch_cpu(x.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    parallel_rows(rstd.numel(), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * width;
      kernels.rms_norm(element<X>(x, first), element<X>(update, first), data_of<float>(w), element<X>(h, first), element<X>(y, first),
                       data_of<float>(rstd) + begin, end - begin, width, static_cast<float>(eps));
    });
  });
}

// dh: the gradient that h has of its own, or undefined. Writes dx, returns the gradient of w.
at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& w, const at::Tensor& rstd, const at::Tensor& dh,
                         const at::Tensor& dx) {
  if (!h.is_cpu()) {
    const at::Tensor dw = at::empty_like(w), partials = at::empty({kernels::kRmsNormScratch}, w.options());
    kernels::rms_norm_backward(norm_shape(h), dy.data_ptr(), h.data_ptr(), w.data_ptr<float>(), rstd.data_ptr<float>(), data_or_null(dh),
                               dx.data_ptr(), dw.data_ptr<float>(), partials.data_ptr<float>(), stream_of(h));
    return dw;
  }
  const std::int64_t width = h.size(-1), chunks = at::get_num_threads();
  const at::Tensor dw_chunks = at::zeros({chunks, width}, w.options());
  dispatch_cpu(h.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    parallel_chunks(rstd.numel(), chunks, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * width;
      kernels.rms_norm_backward(element<X>(dy, first), element<X>(h, first), data_of<float>(w), data_of<float>(rstd) + begin,
                                element<X>(dh, first), element<X>(dx, first), data_of<float>(dw_chunks) + chunk * width, end - begin,
                                width);
    });
  });
  return dw_chunks.sum(0);
}

// The norm y of x; with an update, of h = x + update, and h before it. In one pass over memory.
class FusedRmsNorm : public torch::autograd::Function<FusedRmsNorm> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                                                const std::optional<at::Tensor>& added, const at::Tensor& w, double eps) {
    const at::Tensor x = input.contiguous(), update = added ? added->contiguous() : at::Tensor();
    const std::int64_t rows = x.numel() / std::max<std::int64_t>(x.size(-1), 1);
    const at::Tensor y = at::empty_like(x), rstd = at::empty({rows}, x.options().dtype(at::kFloat));
    const at::Tensor h = update.defined() ? at::empty_like(x) : x;
    norm_forward(x, update, w, eps, h, y, rstd);
    context->save_for_backward({h, w, rstd});
    context->set_materialize_grads(false);  // where the sum goes nowhere else, its gradient is not read
    if (!update.defined()) return {y};
    return {h, y};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const bool adds = grads.size() == 2;
    const at::Tensor dh = adds && grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    if (!grads.back().defined()) return {dh, dh, at::Tensor(), at::Tensor()};
    const at::Tensor dx = at::empty_like(saved[0]);
    const at::Tensor dw = norm_backward(grads.back().contiguous(), saved[0], saved[1], saved[2], dh, dx);
    return {dx, adds ? dx : at::Tensor(), dw, at::Tensor()};
  }
};

}  // namespace

AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& update, const at::Tensor& w, double eps, Path path) {
  TORCH_CHECK(x.sizes() == update.sizes() && x.scalar_type() == update.scalar_type(), "add_rms_norm: ", x.sizes(), " + ", update.sizes());
  if (path == Path::kFused) {
    RECORD_FUNCTION("meristem::add_rms_norm", {});
    const auto out = FusedRmsNorm::apply(x, std::optional(update), w, eps);
    return {out[0], out[1]};
  }
  const at::Tensor sum = x + update;
  return {sum, rms_norm(sum, w, eps, path)};
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Path path) {
  TORCH_CHECK(w.dim() == 1 && x.size(-1) == w.size(0), "rms_norm: x ", x.sizes(), " does not fit w ", w.sizes());
  if (path != Path::kFused) return rms_norm_reference(x, w, eps);
  RECORD_FUNCTION("meristem::rms_norm", {});
  return FusedRmsNorm::apply(x, std::optional<at::Tensor>(), w, eps)[0];
}

}  // namespace meristem::ops
