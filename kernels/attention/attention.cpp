// Checks what a caller gives and picks the instantiation. Each stands in a file of its own.
#include <utility>

#include "attention/launches.h"

namespace meristem::kernels {
namespace {

template <int D>
void launch_backward(const detail::BackwardParameters& p, Stream stream) {
  detail::launch_attention_delta<D>(p, stream);
  detail::launch_attention_backward_keys<D>(p, stream);
  detail::launch_attention_backward_queries<D>(p, stream);
}

}  // namespace

void attention_forward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionOutput out,
                       float* log_sum_exp, Stream stream) {
  detail::check(shape);
  detail::check(q, "q");
  detail::check(k, "k");
  detail::check(v, "v");
  detail::check(out, "out");
  if (shape.tokens == 0) return;
  const detail::ForwardParameters p{shape, q, k, v, out, log_sum_exp};
  shape.head_dim == 64 ? detail::launch_attention_forward<64>(p, stream) : detail::launch_attention_forward<128>(p, stream);
}

void attention_backward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionInput out,
                        AttentionInput d_out, const float* log_sum_exp, float* delta, AttentionOutput dq, AttentionOutput dk,
                        AttentionOutput dv, Stream stream) {
  detail::check(shape);
  for (const auto& [matrix, name] : {std::pair{q, "q"}, {k, "k"}, {v, "v"}, {out, "out"}, {d_out, "d_out"}}) detail::check(matrix, name);
  for (const auto& [matrix, name] : {std::pair{dq, "dq"}, {dk, "dk"}, {dv, "dv"}}) detail::check(matrix, name);
  if (shape.tokens == 0) return;
  const detail::BackwardParameters p{shape, q, k, v, out, d_out, log_sum_exp, delta, dq, dk, dv};
  shape.head_dim == 64 ? launch_backward<64>(p, stream) : launch_backward<128>(p, stream);
}

}  // namespace meristem::kernels
