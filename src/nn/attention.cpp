#include "nn/attention.h"

namespace meristem::nn {

constexpr double kInitStd = 0.02;

AttentionImpl::AttentionImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths)
    : shape_{config.attention.heads, config.attention.kv_heads, config.attention.head_dim}, width_(config.width), paths_(paths) {
  norm_ = register_module("norm", RmsNorm(width_, config.norm_eps, placement, paths.rms_norm));
  qkv_ = register_module("qkv", Linear(width_, shape_.columns(), kInitStd, placement));
  if (config.attention.qk_norm) {
    q_norm_ = register_module("q_norm", RmsNorm(shape_.head_dim, config.norm_eps, placement, paths.rms_norm));
    k_norm_ = register_module("k_norm", RmsNorm(shape_.head_dim, config.norm_eps, placement, paths.rms_norm));
  }
  output_ = register_module("output", Linear(shape_.query_columns(), width_, kInitStd, placement));
}

at::Tensor AttentionImpl::normalize_heads(const at::Tensor& qkv_NC) const {
  const auto parts = qkv_NC.split_with_sizes({shape_.query_columns(), shape_.kv_columns(), shape_.kv_columns()}, 1);
  const auto heads = [&](const at::Tensor& x, const RmsNorm& norm) {
    return norm->forward(x.reshape({x.size(0), -1, shape_.head_dim})).reshape({x.size(0), x.size(1)});
  };
  return at::cat({heads(parts[0], q_norm_), heads(parts[1], k_norm_), parts[2]}, 1);
}

at::Tensor AttentionImpl::forward(const at::Tensor& h_ND, CallContext& call) {
  at::Tensor qkv = qkv_->forward(norm_->forward(h_ND));
  if (!q_norm_.is_empty()) qkv = normalize_heads(qkv);
  qkv = ops::rope(qkv, shape_.heads + shape_.kv_heads, *call.positions_N, *call.rope, paths_.rope);
  if (call.cache == nullptr) return output_->forward(ops::causal_attention(qkv, shape_, *call.segments, paths_.attention));

  const auto parts = qkv.split_with_sizes({shape_.query_columns(), shape_.kv_columns(), shape_.kv_columns()}, 1);
  KvSlot& slot = *call.cache;
  slot.k = slot.k.defined() ? at::cat({slot.k, parts[1]}) : parts[1].contiguous();
  slot.v = slot.v.defined() ? at::cat({slot.v, parts[2]}) : parts[2].contiguous();
  return output_->forward(ops::cached_attention(parts[0], slot.k, slot.v, shape_, paths_.attention));
}

CallCost AttentionImpl::cost(std::int64_t context) const {
  const double width = static_cast<double>(width_), columns = static_cast<double>(shape_.columns()),
               query = static_cast<double>(shape_.query_columns());
  CallCost cost;
  cost.matmul_flops = 2 * width * columns + 2 * query * width;
  cost.score_flops = 4 * query * static_cast<double>(context) / 2;
  cost.kv_elements = 2 * static_cast<double>(shape_.kv_columns());
  // residual input, its norm, the packed projection, the attention's output
  cost.saved_elements = 2 * width + columns + query + (shape_.heads == shape_.kv_heads ? 0 : 2 * query);
  return cost;
}

}  // namespace meristem::nn
