#include "ops/rope.h"

#include <cmath>

#include <torch/torch.h>

#include "meristem_kernels/rope.h"
#include "ops/launch.h"
#include "ops/rms_norm.h"

namespace meristem::ops {
namespace {

at::Tensor rope_reference(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table) {
  const std::int64_t half = table.cos.size(1), columns = heads * 2 * half;
  const auto wide = accumulate_type(x_NC.scalar_type());
  const at::Tensor rotated = x_NC.narrow(1, 0, columns).to(wide).view({-1, heads, 2, half});
  const at::Tensor index = positions_N.to(at::kLong);
  const at::Tensor cos = table.cos.index_select(0, index).to(wide).unsqueeze(1),
                   sin = table.sin.index_select(0, index).to(wide).unsqueeze(1);
  const at::Tensor a = rotated.select(2, 0), b = rotated.select(2, 1);
  const at::Tensor turned = at::stack({a * cos - b * sin, b * cos + a * sin}, 2).reshape({-1, columns}).to(x_NC.scalar_type());
  return at::cat({turned, x_NC.narrow(1, columns, x_NC.size(1) - columns)}, 1);
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

// Turns the first `heads` heads of each row by sign times their angle, in place.
void rotate_rows(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, float sign) {
  if (!x_NC.is_cpu()) {
    kernels::rope(rope_shape(x_NC, heads, positions_N, table), x_NC.data_ptr(), x_NC.stride(0), sign, stream_of(x_NC));
    return;
  }
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
    RECORD_FUNCTION("meristem::rope", {});
    rotate_rows(x_NC, heads, positions_N, {cos, sin}, 1.0f);
    context->mark_dirty({x_NC});
    context->saved_data["heads"] = heads;
    context->save_for_backward({positions_N, cos, sin});
    return x_NC;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor dx = grads[0].contiguous();
    // The gradient comes fresh from attention's backward and is ours to turn; a shared one is copied first. LibTorch's caller, `grads` and
    // dx are the three that have it here.
    if (dx.use_count() > 3 || dx.storage().use_count() > 1) dx = dx.clone();
    rotate_rows(dx, context->saved_data["heads"].toInt(), saved[0], {saved[1], saved[2]}, -1.0f);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

kernels::QkNorm qk_norm_of(const QkNorm& norm) {
  return {static_cast<int>(norm.query_heads), static_cast<float>(norm.eps), norm.q_gain.data_ptr<float>(), norm.k_gain.data_ptr<float>()};
}

// One pass over memory on a CUDA device. The input is kept for the norm's gradient, so this one does not rotate in place.
class FusedQkNormRope : public torch::autograd::Function<FusedQkNormRope> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& q_gain,
                            const at::Tensor& k_gain, std::int64_t query_heads, std::int64_t key_heads, double eps,
                            const at::Tensor& positions_N, const at::Tensor& cos, const at::Tensor& sin) {
    const at::Tensor x_NC = input.contiguous(), y_NC = at::empty_like(x_NC);
    const QkNorm norm{query_heads, key_heads, q_gain, k_gain, eps};
    kernels::qk_norm_rope_forward(rope_shape(x_NC, query_heads + key_heads, positions_N, {cos, sin}), qk_norm_of(norm),
                                  static_cast<int>(x_NC.size(1)), x_NC.data_ptr(), x_NC.stride(0), y_NC.data_ptr(), y_NC.stride(0),
                                  stream_of(x_NC));
    context->saved_data["query_heads"] = query_heads;
    context->saved_data["key_heads"] = key_heads;
    context->saved_data["eps"] = eps;
    context->save_for_backward({x_NC, q_gain, k_gain, positions_N, cos, sin});
    return y_NC;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const QkNorm norm{context->saved_data["query_heads"].toInt(), context->saved_data["key_heads"].toInt(), saved[1], saved[2],
                      context->saved_data["eps"].toDouble()};
    const at::Tensor &x = saved[0], dy = grads[0].contiguous(), dx = at::empty_like(x), none;
    const std::int64_t head_dim = norm.q_gain.size(0);
    const at::Tensor d_gains = at::empty({2, head_dim}, norm.q_gain.options());
    const at::Tensor partials = at::empty({kernels::kRopePartials * 2 * head_dim}, norm.q_gain.options());
    kernels::qk_norm_rope_backward(rope_shape(x, norm.query_heads + norm.key_heads, saved[3], {saved[4], saved[5]}), qk_norm_of(norm),
                                   static_cast<int>(x.size(1)), dy.data_ptr(), dy.stride(0), x.data_ptr(), x.stride(0), dx.data_ptr(),
                                   dx.stride(0), d_gains.data_ptr<float>(), partials.data_ptr<float>(), stream_of(x));
    return {dx, d_gains.select(0, 0), d_gains.select(0, 1), none, none, none, none, none, none};
  }
};

}  // namespace

at::Tensor qk_norm_rope(const at::Tensor& x_NC, const QkNorm& norm, const at::Tensor& positions_N, const RopeTable& table, Path norm_path,
                        Path rope_path) {
  const std::int64_t head_dim = 2 * table.cos.size(1), query = norm.query_heads * head_dim, key = norm.key_heads * head_dim;
  const bool by_head = norm.q_gain.size(0) == head_dim && norm.k_gain.size(0) == head_dim;
  if (by_head && !x_NC.is_cpu() && norm_path == Path::kFused && rope_path == Path::kFused) {
    return FusedQkNormRope::apply(x_NC, norm.q_gain, norm.k_gain, norm.query_heads, norm.key_heads, norm.eps, positions_N, table.cos,
                                  table.sin);
  }
  const auto parts = x_NC.split_with_sizes({query, key, x_NC.size(1) - query - key}, 1);
  const auto normed = [&](const at::Tensor& x, const at::Tensor& gain) {
    return rms_norm(x.reshape({x.size(0), -1, gain.size(0)}), gain, norm.eps, norm_path).reshape({x.size(0), x.size(1)});
  };
  const at::Tensor heads = at::cat({normed(parts[0], norm.q_gain), normed(parts[1], norm.k_gain), parts[2]}, 1);
  return rope(heads, norm.query_heads + norm.key_heads, positions_N, table, rope_path);
}

RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::TensorOptions& options,
                          const std::optional<RopeScaling>& scaling) {
  // Angles are built in double: position x frequency in float loses digits beyond a few thousand positions.
  const auto wide = options.dtype(at::kDouble);
  at::Tensor frequency = at::pow(theta, at::arange(0, head_dim, 2, wide) / -static_cast<double>(head_dim));
  if (scaling) {
    const at::Tensor turns = frequency * (scaling->original_positions / (2 * M_PI));  // over the original positions
    const at::Tensor kept = ((turns - scaling->low_factor) / (scaling->high_factor - scaling->low_factor)).clamp(0, 1);
    frequency = frequency * ((1 - kept) / scaling->factor + kept);
  }
  const at::Tensor angle = at::outer(at::arange(positions, wide), frequency);
  return {angle.cos().to(options), angle.sin().to(options)};
}

RopeTable no_rotation(const RopeTable& like) { return {at::ones_like(like.cos), at::zeros_like(like.sin)}; }

at::Tensor rope(const at::Tensor& x_NC, std::int64_t heads, const at::Tensor& positions_N, const RopeTable& table, Path path) {
  TORCH_CHECK(x_NC.dim() == 2 && heads * 2 * table.cos.size(1) <= x_NC.size(1), "rope: ", heads, " heads do not fit ", x_NC.sizes());
  TORCH_CHECK(positions_N.scalar_type() == at::kInt && positions_N.numel() == x_NC.size(0), "rope: one int32 position a row");
  if (path != Path::kFused) return rope_reference(x_NC, heads, positions_N, table);
  TORCH_CHECK(x_NC.is_contiguous(), "rope: the fused path needs contiguous rows");
  return FusedRope::apply(x_NC, heads, positions_N, table.cos, table.sin);
}

}  // namespace meristem::ops
