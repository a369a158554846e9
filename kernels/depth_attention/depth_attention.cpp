// Checks what a caller gives and picks the instantiation. Each stands in a file of its own.
#include <bit>

#include "depth_attention/launches.h"

namespace meristem::kernels {
namespace {

constexpr int kChunk = 8;      // bf16 of 16 bytes
constexpr int kPartHeads = 4;  // query heads whose sums the registers of a lane hold
constexpr std::int64_t kMostRows = std::int64_t{1} << 30;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("depth attention: " + what);
}

// Each lane has 16 bytes of a row, or more than one such chunk where the row is wider than a warp.
int lanes_of(int head_dim) {
  return head_dim >= 32 * kChunk ? 32 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(head_dim / kChunk)));
}

detail::DepthLanes split_of(const DepthAttentionShape& shape) {
  const unsigned group = static_cast<unsigned>(shape.heads / shape.kv_heads);
  return {lanes_of(shape.head_dim), static_cast<int>(std::bit_ceil((group + kPartHeads - 1) / kPartHeads))};
}

void check(const DepthAttentionShape& shape, int fewest_entries) {
  require(shape.tokens >= 0, "a negative number of tokens");
  require(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0,
          std::to_string(shape.heads) + " query heads over " + std::to_string(shape.kv_heads) + " key heads");
  require(static_cast<std::int64_t>(shape.tokens) * shape.kv_heads <= kMostRows, "more than 2^30 tokens times key heads");
  require(shape.entries >= fewest_entries && shape.entries <= kDepthEntries,
          std::to_string(shape.entries) + " entries; allowed: " + std::to_string(fewest_entries) + " to " + std::to_string(kDepthEntries));
  const int group = shape.heads / shape.kv_heads, widest = depth_head_dim_most(group);
  require(shape.head_dim > 0 && shape.head_dim % kChunk == 0 && shape.head_dim <= widest,
          "head dim " + std::to_string(shape.head_dim) + " with " + std::to_string(group) +
              " query heads a key head; allowed: multiples of 8 up to " + std::to_string(widest));
  const int most = depth_group_most(shape.head_dim);
  require(group <= most, std::to_string(group) + " query heads a key head of " + std::to_string(shape.head_dim) + "; allowed: 1 to " +
                             std::to_string(most));
  require(shape.scale > 0, "the scale must be positive");
}

template <class Rows>
void check(const Rows& rows, const std::string& name) {
  require(reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0, name + " is not aligned to 16 bytes");
  require(rows.row_stride % kChunk == 0, name + ": a row stride that is no multiple of 8");
}

void check(const DepthEntryGradient& gradient, const std::string& name) { check(gradient.rows, name); }

template <class Rows>
void copy_table(Rows* to, const Rows* from, int count, const std::string& name) {
  for (int i = 0; i < count; ++i) {
    check(from[i], name + " " + std::to_string(i));
    to[i] = from[i];
  }
}

// body<heads, chunks>() for the instantiation that serves the shape.
template <class Body>
void dispatch(const DepthAttentionShape& shape, const Body& body) {
  const int group = shape.heads / shape.kv_heads;
  if (group > 2) return body.template operator()<4, 1>();
  if (group > 1) return body.template operator()<2, 1>();
  if (shape.head_dim > 512) return body.template operator()<1, 4>();
  if (shape.head_dim > 256) return body.template operator()<1, 2>();
  body.template operator()<1, 1>();
}

void forward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values, DepthOutput out,
             DepthLogSumExp log_sum_exp, bool join, Stream stream) {
  check(q, "q");
  check(out, "out");
  detail::DepthForwardParameters p{shape, split_of(shape), join, q, out, log_sum_exp, {}};
  copy_table(p.entries.keys, keys, shape.entries, "key");
  copy_table(p.entries.values, values, shape.entries, "value");
  dispatch(shape, [&]<int heads, int chunks>() { detail::launch_depth_forward<heads, chunks>(p, stream); });
}

}  // namespace

void depth_attention_forward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                             DepthOutput out, DepthLogSumExp log_sum_exp, Stream stream) {
  check(shape, 1);
  forward(shape, q, keys, values, out, log_sum_exp, false, stream);
}

void depth_attention_join(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values, DepthOutput out,
                          DepthLogSumExp log_sum_exp, Stream stream) {
  check(shape, 0);
  if (shape.entries > 0) forward(shape, q, keys, values, out, log_sum_exp, true, stream);
}

void depth_attention_backward(const DepthAttentionShape& shape, DepthInput q, const DepthInput* keys, const DepthInput* values,
                              DepthInput out, DepthInput d_out, DepthLogSumExp log_sum_exp, DepthOutput dq, DepthGradient dq_mode,
                              const DepthEntryGradient* d_keys, const DepthEntryGradient* d_values, Stream stream) {
  check(shape, 0);
  check(q, "q");
  check(out, "out");
  check(d_out, "d_out");
  check(dq, "dq");
  detail::DepthBackwardParameters p{shape, split_of(shape), dq_mode == DepthGradient::kAdd, q, out, d_out, log_sum_exp, dq, {}, {}, {}};
  copy_table(p.entries.keys, keys, shape.entries, "key");
  copy_table(p.entries.values, values, shape.entries, "value");
  copy_table(p.d_keys, d_keys, shape.entries, "key gradient");
  copy_table(p.d_values, d_values, shape.entries, "value gradient");
  dispatch(shape, [&]<int heads, int chunks>() { detail::launch_depth_backward<heads, chunks>(p, stream); });
}

}  // namespace meristem::kernels
