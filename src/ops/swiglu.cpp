#include "ops/swiglu.h"

#include <torch/torch.h>

#include "meristem_kernels/swiglu.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

at::Tensor swiglu_reference(const at::Tensor& gate_up) {
  const auto parts = gate_up.to(accumulate_type(gate_up.scalar_type())).chunk(2, -1);
  return (at::silu(parts[0]) * parts[1]).to(gate_up.scalar_type());
}

kernels::SwigluShape kernel_shape_of(const at::Tensor& gate_up) {
  return {gate_up.size(0), static_cast<int>(gate_up.size(1) / 2), element_type(gate_up)};
}

class FusedSwiglu : public torch::autograd::Function<FusedSwiglu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input) {
    RECORD_FUNCTION("meristem::swiglu", {});
    const at::Tensor gate_up = input.contiguous();
    const std::int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
    at::Tensor y = at::empty({rows, inner}, gate_up.options());
    if (gate_up.is_cpu()) {
      dispatch_cpu(gate_up.scalar_type(), [&](const auto& kernels, auto type) {
        using X = decltype(type);
        parallel_rows(rows, [&](std::int64_t begin, std::int64_t end) {
          kernels.swiglu(data_of<X>(gate_up) + begin * 2 * inner, data_of<X>(y) + begin * inner, end - begin, inner);
        });
      });
    } else {
      kernels::swiglu_forward(kernel_shape_of(gate_up), gate_up.data_ptr(), y.data_ptr(), stream_of(gate_up));
    }
    context->save_for_backward({gate_up});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const at::Tensor dy = grads[0].contiguous();
    const std::int64_t rows = gate_up.size(0), inner = gate_up.size(1) / 2;
    at::Tensor d_gate_up = at::empty_like(gate_up);
    if (!gate_up.is_cpu()) {
      kernels::swiglu_backward(kernel_shape_of(gate_up), dy.data_ptr(), gate_up.data_ptr(), d_gate_up.data_ptr(), stream_of(gate_up));
      return {d_gate_up};
    }
    dispatch_cpu(gate_up.scalar_type(), [&](const auto& kernels, auto type) {
      using X = decltype(type);
      parallel_rows(rows, [&](std::int64_t begin, std::int64_t end) {
        kernels.swiglu_backward(data_of<X>(dy) + begin * inner, data_of<X>(gate_up) + begin * 2 * inner,
                                data_of<X>(d_gate_up) + begin * 2 * inner, end - begin, inner);
      });
    });
    return {d_gate_up};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, Path path) {
  TORCH_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, "swiglu: gate_up must be [N, 2 inner], got ", gate_up.sizes());
  return path == Path::kFused ? FusedSwiglu::apply(gate_up) : swiglu_reference(gate_up);
}

at::Tensor geglu(const at::Tensor& gate_up) {
  const auto parts = gate_up.to(accumulate_type(gate_up.scalar_type())).chunk(2, -1);
  return (at::gelu(parts[0], "tanh") * parts[1]).to(gate_up.scalar_type());
}

}  // namespace meristem::ops
