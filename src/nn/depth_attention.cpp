#include "nn/depth_attention.h"

namespace meristem::nn {

ops::HeadShape depth_heads(const ModelConfig& config) {
  const DepthAttentionConfig& depth = *config.depth_attention;
  const AttentionConfig& attention = config.attention;
  if (depth.kind == DepthAttentionKind::kSeparate) return {depth.heads, depth.heads, config.width / depth.heads};
  return {depth.kind == DepthAttentionKind::kJoint ? attention.heads : attention.kv_heads, attention.kv_heads, attention.head_dim};
}

DepthAttentionImpl::DepthAttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths)
    : shape_(depth_heads(config)),
      width_(config.width),
      of_updates_(config.depth_attention->keys == DepthKeys::kUpdates),
      rotates_(config.depth_attention->position == DepthPosition::kRope),
      rope_theta_(config.attention.rope_theta),
      rope_type_(placement.norm),
      paths_(paths) {
  norm_ = register_module("norm", InputNorm(config, placement, paths));
  key_norm_ = register_module("key_norm", InputNorm(config, placement, paths));
  query_ = register_module("query", Linear(width_, width_, kInitStd, placement));
  key_value_ = register_module("key_value", Linear(width_, MatrixRows{width_, width_}, kInitStd, placement));
  // Where the block norms what comes out, a start at zero would do no good: the first update that leaves it makes that full size.
  const double output_std = norms_outputs(config.norm) ? kInitStd : 0;
  output_ = register_module("output", Linear(width_, width_, output_std, placement));
  output_->end_mixer();
}

at::Tensor DepthAttentionImpl::at_depth(const at::Tensor& x, std::int64_t depth) {
  if (!rotates_) return x;
  if (!rope_.cos.defined() || rope_.cos.size(0) <= depth) {
    rope_ = ops::make_rope_table(2 * depth + 16, shape_.head_dim, rope_theta_, torch::dtype(rope_type_).device(x.device()));
  }
  const at::Tensor depths_N = at::full({x.size(0)}, depth, x.options().dtype(at::kInt).requires_grad(false));
  return ops::rope(x, shape_.heads, depths_N, rope_, paths_.rope);
}

void DepthAttentionImpl::remember_newest(CallContext& call) {
  DepthMemory& memory = *call.memory;
  const bool is_update = of_updates_ && memory.previous.defined();
  const at::Tensor source = is_update ? memory.state - memory.previous : memory.state;
  const at::Tensor key_value = at_depth(key_value_->forward(key_norm_->forward(source)), call.depth_index);
  const auto parts = key_value.split(width_, 1);
  memory.keys.push_back(parts[0]);
  memory.values.push_back(parts[1]);
}

at::Tensor DepthAttentionImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  remember_newest(call);
  // This call's output will be state depth_index + 1: its query stands there.
  const at::Tensor q = at_depth(query_->forward(norm_->forward(h_ND)), call.depth_index + 1);
  const DepthMemory& memory = *call.memory;
  const std::size_t entries = memory.keys.size();
  if (call.observer != nullptr) {
    call.observer->attended_depth(call, [&] { return ops::depth_attention_weights(q, memory.keys, shape_); });
  }
  return output_->forward(
      ops::depth_attention(q, memory.keys, memory.values, shape_, paths_.depth_attention, memory.shared(entries, entries)));
}

CallCost DepthAttentionImpl::cost(const CallPlace& place) const {
  const double width = static_cast<double>(width_), entries = static_cast<double>(place.depth_index + 1);
  CallCost cost;
  cost.matmul_flops = 2 * 4 * width * width;
  cost.score_flops = 4 * width * entries;
  cost.memory_elements = 2 * width;  // key and value
  // residual input and its norm, the state's norm, query, key and value, the attended values
  cost.saved_elements = 5 * width + norm_->saved_elements() + key_norm_->saved_elements();
  cost.saved_fp32 = static_cast<double>(shape_.heads);  // the weights' logsumexp
  return cost;
}

}  // namespace meristem::nn
