#include "nn/attention.h"

#include <algorithm>

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

// Rows of `kept`, then those of `more`. In place where the memory of `kept`, which is ours, has room behind it; it doubles where it has
// not, so that a long text is not copied for each of its tokens. `kept` is not read again.
at::Tensor appended(const at::Tensor& kept, const at::Tensor& more) {
  constexpr std::int64_t kFewest = 64;
  const std::int64_t before = kept.defined() ? kept.size(0) : 0, rows = before + more.size(0), columns = more.size(1);
  const std::int64_t room = kept.defined() ? static_cast<std::int64_t>(kept.storage().nbytes() / kept.itemsize()) / columns : 0;
  at::Tensor all;
  if (rows <= room) {
    all = kept.as_strided({rows, columns}, {columns, 1}, 0);
  } else {
    all = at::empty({std::max(kFewest, 2 * rows), columns}, more.options()).narrow(0, 0, rows);
    if (before > 0) all.narrow(0, 0, before).copy_(kept);
  }
  all.narrow(0, before, more.size(0)).copy_(more);
  return all;
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

at::Tensor AttentionImpl::mixed_values(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, DepthMemory& memory) const {
  const at::Tensor mean_q = q.view({-1, shape_.kv_heads, shape_.heads / shape_.kv_heads, shape_.head_dim}).mean(2).reshape_as(k);
  memory.keys.push_back(k);
  std::vector<at::Tensor> values = memory.values;
  values.push_back(v);
  memory.values.push_back(ops::depth_attention(mean_q, memory.keys, values, depth_shape_, paths_.depth_attention,
                                               memory.shared(memory.keys.size(), memory.values.size())));
  return memory.values.back();
}

at::Tensor AttentionImpl::attend(const at::Tensor& qkv_NC, CallContext& call) const {
  if (depth_ != Depth::kJoint) {
    return ops::causal_attention(qkv_NC, shape_of(call.block), call.asked_A == nullptr ? *call.documents : call.documents->read_at(*call.asked_A),
                                 paths_.attention);
  }
  const DepthMemory& memory = *call.memory;
  const std::size_t entries = memory.keys.size();
  return ops::joint_attention(qkv_NC, memory.keys, memory.values, shape_, *call.documents, paths_.depth_attention,
                              memory.shared(entries, entries));
}

at::Tensor AttentionImpl::attend_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, CallContext& call) const {
  // Keys and values of the sequence so far, [S, G*K] each; with a window those that these tokens see.
  DecodeState& seen = *call.state;
  const ops::HeadShape shape = shape_of(call.block);
  seen.resize(2);
  for (std::size_t i = 0; i < 2; ++i) {
    const at::Tensor& more = i == 0 ? k : v;
    if (seen[i].defined() && shape.window > 0 && seen[i].size(0) >= shape.window) {
      seen[i] = at::cat({seen[i].narrow(0, seen[i].size(0) - (shape.window - 1), shape.window - 1), more});
    } else {
      seen[i] = appended(seen[i], more);
    }
  }
  if (depth_ != Depth::kJoint) return ops::cached_attention(q, seen[0], seen[1], shape, paths_.attention);
  return ops::cached_joint_attention(q, seen[0], seen[1], call.memory->keys, call.memory->values, shape, paths_.depth_attention);
}

at::Tensor AttentionImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  at::Tensor qkv = rotate(qkv_->forward(norm_->forward(h_ND)), call);
  const auto parts = qkv.split_with_sizes({shape_.query_columns(), shape_.kv_columns(), shape_.kv_columns()}, 1);
  at::Tensor value = parts[2];
  if (depth_ == Depth::kValues) {
    value = mixed_values(parts[0], parts[1], parts[2], *call.memory);
    if (call.state == nullptr) qkv = at::cat({parts[0], parts[1], value}, 1);
  }
  const at::Tensor attended = call.state == nullptr ? attend(qkv, call) : attend_cached(parts[0], parts[1], value, call);
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
  if (paths_.attention == ops::Path::kFused || depth_ == Depth::kJoint) {
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
