#include "nn/attention.h"

#include <algorithm>
#include <cstring>

#include "nn/depth_attention.h"
#include "ops/depth_attention.h"

namespace meristem::nn {

AttentionImpl::AttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths, double output_std)
    : config_(config.attention),
      shape_{config_.heads, config_.kv_heads, config_.head_dim, config_.window, config_.score_cap},
      width_(config.width),
      paths_(paths) {
  if (config.depth_attention && config.depth_attention->kind == DepthAttentionKind::kJoint) depth_ = Depth::kJoint;
  if (config.depth_attention && config.depth_attention->kind == DepthAttentionKind::kValues) depth_ = Depth::kValues;
  if (config.depth_attention) depth_shape_ = depth_heads(config);
  norm_ = register_module("norm", InputNorm(config, placement, paths));
  const std::int64_t kv_columns = shape_.kv_heads * shape_.head_dim;
  qkv_ = register_module("qkv", Linear(width_, MatrixRows{shape_.query_columns(), kv_columns, kv_columns}, kInitStd, placement));
  if (config.attention.qkv_bias) qkv_->add_bias(placement);
  if (config.attention.qk_norm) {
    const bool by_head = config.attention.qk_norm_over == QkNormOver::kHeads;
    const std::int64_t query = by_head ? shape_.head_dim : shape_.query_columns(), key = by_head ? shape_.head_dim : kv_columns;
    q_norm_ = register_module("q_norm", RmsNorm(query, config.norm_eps, placement, paths.rms_norm));
    k_norm_ = register_module("k_norm", RmsNorm(key, config.norm_eps, placement, paths.rms_norm));
  }
  output_ = register_module("output", Linear(shape_.query_columns(), width_, output_std, placement));
  output_->end_mixer();
}

namespace {

std::int64_t rows_of_memory(const at::Tensor& kept) {
  return static_cast<std::int64_t>(kept.storage().nbytes() / kept.itemsize()) / kept.size(1);
}

// Rows [begin, begin + count) of `from` become those of `to` from row `at` on.
void copy_rows(const at::Tensor& from, std::int64_t begin, std::int64_t count, const at::Tensor& to, std::int64_t at) {
  if (!from.is_cpu() || count > 4 || from.stride(1) != 1) {
    to.narrow(0, at, count).copy_(from.narrow(0, begin, count));
    return;
  }
  const auto item = static_cast<std::int64_t>(from.itemsize());  // of one row LibTorch's copy takes longer to begin than to copy
  for (std::int64_t r = 0; r < count; ++r) {
    std::memcpy(static_cast<char*>(to.data_ptr()) + (at + r) * to.size(1) * item,
                static_cast<const char*>(from.data_ptr()) + (begin + r) * from.stride(0) * item,
                static_cast<std::size_t>(to.size(1) * item));
  }
}

// `kept` becomes its last `before` rows and then `count` rows of `more` from `begin` on: in place where its memory, which is ours alone,
// has room behind it, at the memory's front where that is free by now; else in memory for `room` rows, twice as many as there are at least,
// so that a long text is not copied for each of its tokens.
void append(at::Tensor& kept, std::int64_t before, const at::Tensor& more, std::int64_t begin, std::int64_t count, std::int64_t room) {
  constexpr std::int64_t kFewest = 64;
  const std::int64_t columns = more.size(1), rows = before + count;
  if (!kept.defined()) kept = at::empty({std::max({kFewest, room, rows}), columns}, more.options()).narrow(0, 0, 0);
  std::int64_t first = kept.storage_offset() / columns + kept.size(0) - before;
  if (first + rows > rows_of_memory(kept)) {
    const bool to_the_front = first >= before && rows <= rows_of_memory(kept);
    const at::Tensor memory = to_the_front ? kept : at::empty({std::max({kFewest, room, 2 * rows}), columns}, more.options());
    const at::Tensor moved = memory.as_strided({rows, columns}, {columns, 1}, 0);
    copy_rows(kept, kept.size(0) - before, before, moved, 0);
    kept = moved;
    first = 0;
  }
  kept.unsafeGetTensorImpl()->set_storage_offset(first * columns);
  kept.unsafeGetTensorImpl()->set_sizes_contiguous({rows, columns});
  copy_rows(more, begin, count, kept, before);
}

}  // namespace

ops::HeadShape AttentionImpl::shape_of(std::int64_t block) const {
  ops::HeadShape shape = shape_;
  shape.window = config_.window_of(block);
  return shape;
}

at::Tensor AttentionImpl::rotate(const at::Tensor& qkv_NC, const CallContext& call) const {
  if (q_norm_.is_empty()) return ops::rope(qkv_NC, shape_.heads + shape_.kv_heads, *call.positions_N, *call.rope, paths_.rope);
  const ops::QkNorm norm{shape_.heads, shape_.kv_heads, q_norm_->weight(), k_norm_->weight(), q_norm_->eps()};
  return ops::qk_norm_rope(qkv_NC, norm, *call.positions_N, *call.rope, paths_.rms_norm, paths_.rope);
}

at::Tensor AttentionImpl::mixed_values(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, CallContext& call) const {
  DepthMemory& memory = *call.memory;
  const at::Tensor mean_q = q.view({-1, shape_.kv_heads, shape_.heads / shape_.kv_heads, shape_.head_dim}).mean(2).reshape_as(k);
  memory.keys.push_back(k);
  std::vector<at::Tensor> values = memory.values;
  values.push_back(v);
  memory.values.push_back(ops::depth_attention(mean_q, memory.keys, values, depth_shape_, paths_.depth_attention,
                                               memory.shared(memory.keys.size(), memory.values.size())));
  if (call.observer != nullptr) {
    call.observer->attended_depth(call, [&] { return ops::depth_attention_weights(mean_q, memory.keys, depth_shape_); });
  }
  return memory.values.back();
}

at::Tensor AttentionImpl::attend(const at::Tensor& qkv_NC, CallContext& call) const {
  if (depth_ != Depth::kJoint) {
    const ops::HeadShape shape = shape_of(call.block);
    return ops::causal_attention(qkv_NC, shape, call.asked_A == nullptr ? *call.documents : call.documents->read_at(*call.asked_A),
                                 paths_.attention_of(shape.window));
  }
  const DepthMemory& memory = *call.memory;
  const std::size_t entries = memory.keys.size();
  if (call.observer != nullptr && entries > 0) {
    call.observer->attended_depth(call, [&] { return ops::joint_depth_weights(qkv_NC, memory.keys, shape_, *call.documents); });
  }
  return ops::joint_attention(qkv_NC, memory.keys, memory.values, shape_, *call.documents, paths_.depth_attention,
                              memory.shared(entries, entries));
}

at::Tensor AttentionImpl::attend_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, CallContext& call) const {
  // Of each sequence so far its keys and values, [S, G*K] each; with a window those that these tokens see.
  const ops::HeadShape shape = shape_of(call.block);
  const std::vector<std::int64_t>& lengths = call.documents->lengths;
  std::vector<ops::KeptRows> seen;
  std::int64_t begin = 0;
  for (std::size_t d = 0; d < lengths.size(); begin += lengths[d++]) {
    DecodeState& kept = *call.states[d];
    kept.resize(2);
    const std::int64_t rows = kept[0].defined() ? kept[0].size(0) : 0, before = shape.window == 0 ? rows : std::min(rows, shape.window - 1);
    const std::int64_t most = shape.window == 0 ? call.expected : std::min(call.expected, 2 * shape.window + lengths[d]);
    append(kept[0], before, k, begin, lengths[d], most);
    append(kept[1], before, v, begin, lengths[d], most);
    seen.push_back({kept[0], kept[1]});
  }
  if (depth_ != Depth::kJoint) return ops::cached_attention(q, seen, shape, *call.documents, paths_.attention_of(shape.window));
  return ops::cached_joint_attention(q, seen, call.memory->keys, call.memory->values, shape, *call.documents, paths_.depth_attention);
}

at::Tensor AttentionImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  at::Tensor qkv = rotate(qkv_->forward(norm_->forward(h_ND, call.normed_ND)), call);
  const auto parts = qkv.split_with_sizes({shape_.query_columns(), shape_.kv_columns(), shape_.kv_columns()}, 1);
  at::Tensor value = parts[2];
  if (depth_ == Depth::kValues) {
    value = mixed_values(parts[0], parts[1], parts[2], call);
    if (call.states.empty()) qkv = at::cat({parts[0], parts[1], value}, 1);
  }
  const at::Tensor attended = call.states.empty() ? attend(qkv, call) : attend_cached(parts[0], parts[1], value, call);
  if (depth_ == Depth::kJoint) {
    call.memory->keys.push_back(parts[1]);
    call.memory->values.push_back(value);
  }
  return output_->forward(call.asked_A == nullptr ? attended : attended.index_select(0, *call.asked_A));
}

CallCost AttentionImpl::cost(const CallPlace& place) const {
  const double width = static_cast<double>(width_), columns = static_cast<double>(shape_.columns()),
               query = static_cast<double>(shape_.query_columns());
  CallCost cost;
  cost.matmul_flops = 2 * width * columns + 2 * query * width;
  // Keys that a token sees in the mean, and the share of the context's keys that is kept.
  const double context = static_cast<double>(place.context), seen = static_cast<double>(config_.window_of(place.block)),
               window = seen == 0 ? context : std::min(context, seen);
  cost.score_flops = context == 0 ? 0 : 4 * query * (window - window * window / (2 * context));
  cost.kv_elements = 2 * static_cast<double>(shape_.kv_columns()) * (context == 0 ? 1 : window / context);
  const double kv = static_cast<double>(shape_.kv_columns()), entries = static_cast<double>(place.depth_index);
  // residual input, its norm, the packed projection, the attention's output
  cost.saved_elements = width + norm_->saved_elements() + columns + query;
  if (paths_.attention_of(config_.window_of(place.block)) == ops::Path::kFused || depth_ == Depth::kJoint) {
    cost.saved_fp32 = static_cast<double>(shape_.heads);  // its log-sum-exp
  } else if (shape_.heads != shape_.kv_heads) {
    cost.saved_elements += 2 * query;  // keys and values repeated for each query head
  }
  // the softmax and the capped scores, and the scores themselves: of all keys, those that a mask hides too
  if (shape_.score_cap > 0) cost.saved_fp32 += 2 * static_cast<double>(shape_.heads) * context;
  if (!q_norm_.is_empty()) cost.saved_elements += query + kv;  // what QK norm read
  if (depth_ != Depth::kNone) cost.memory_elements = 2 * kv;
  if (depth_ == Depth::kJoint) cost.score_flops += 4 * query * entries;
  if (depth_ == Depth::kValues) {
    cost.score_flops += 4 * kv * (entries + 1);
    cost.saved_elements += columns + 2 * kv;  // the projection with its new values, and what they were mixed with
  }
  return cost;
}

}  // namespace meristem::nn
