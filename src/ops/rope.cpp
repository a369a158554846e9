#include "ops/rope.h"

#include <torch/torch.h>

#include "ops/parallel_rows.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

at::Tensor rope_reference(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table) {
  const std::int64_t half = table.cos.size(1), columns = heads * 2 * half;
  const auto wide = accumulate_type(x_NC.scalar_type());
  const at::Tensor rotated = x_NC.narrow(1, 0, columns).to(wide).view({-1, heads, 2, half});
  const at::Tensor index = positions_N.to(at::kLong);
  const at::Tensor cos = table.cos.index_select(0, index).to(wide).unsqueeze(1), sin = table.sin.index_select(0, index).to(wide).unsqueeze(1);
  const at::Tensor a = rotated.select(2, 0), b = rotated.select(2, 1);
  const at::Tensor turned = at::stack({a * cos - b * sin, b * cos + a * sin}, 2).reshape({-1, columns}).to(x_NC.scalar_type());
  return at::cat({turned, x_NC.narrow(1, columns, x_NC.size(1) - columns)}, 1);
}

void rotate_rows(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, float sign) {
  const std::int64_t columns = x_NC.size(1), head_dim = 2 * table.cos.size(1);
  dispatch_cpu(x_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    parallel_rows(x_NC.size(0), [&](std::int64_t begin, std::int64_t end) {
      kernels.rope(data_of<X>(x_NC) + begin * columns, columns, data_of<std::int32_t>(positions_N) + begin, data_of<float>(table.cos),
                   data_of<float>(table.sin), end - begin, heads, head_dim, sign);
    });
  });
}

class FusedRope : public torch::autograd::Function<FusedRope> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x_NC, std::int64_t heads,
                            const at::Tensor& positions_N, const at::Tensor& cos, const at::Tensor& sin) {
    rotate_rows(x_NC, heads, positions_N, {cos, sin}, 1.0f);
    context->mark_dirty({x_NC});
    context->saved_data["heads"] = heads;
    context->save_for_backward({positions_N, cos, sin});
    return x_NC;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor dx = grads[0].contiguous();
    // The gradient comes fresh from attention's backward and is ours to turn; a shared one is copied first.
    if (dx.use_count() > 2) dx = dx.clone();
    rotate_rows(dx, context->saved_data["heads"].toInt(), saved[0], {saved[1], saved[2]}, -1.0f);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::TensorOptions& options) {
  // Angles are built in double: position x frequency in float loses digits beyond a few thousand positions.
  const auto wide = options.dtype(at::kDouble);
  const at::Tensor frequency = at::pow(theta, at::arange(0, head_dim, 2, wide) / -static_cast<double>(head_dim));
  const at::Tensor angle = at::outer(at::arange(positions, wide), frequency);
  return {angle.cos().to(options), angle.sin().to(options)};
}

at::Tensor rope(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, Path path) {
  TORCH_CHECK(x_NC.dim() == 2 && heads * 2 * table.cos.size(1) <= x_NC.size(1), "rope: ", heads, " heads do not fit ", x_NC.sizes());
  TORCH_CHECK(positions_N.scalar_type() == at::kInt && positions_N.numel() == x_NC.size(0), "rope: one int32 position a row");
  if (path != Path::kFused) return rope_reference(x_NC, heads, positions_N, table);
  TORCH_CHECK(x_NC.is_contiguous(), "rope: the fused path needs contiguous rows");
  return FusedRope::apply(x_NC, heads, positions_N, table.cos, table.sin);
}

}  // namespace meristem::ops
