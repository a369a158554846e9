#include "interop/llama_parts.h"

#include <fmt/format.h>

namespace meristem {

std::int64_t LlamaPart::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

std::vector<LlamaPart> llama_parts(const ModelConfig& model) {
  const AttentionConfig& attention = model.attention;
  const std::int64_t width = model.width, inner = model.feed_forward.inner, query = attention.heads * attention.head_dim,
                     kv = attention.kv_heads * attention.head_dim;
  std::vector<LlamaPart> parts{{"model.embed_tokens.weight", "embedding.weight", {model.vocab_size, width}}};
  for (std::int64_t i = 0; i < model.blocks; ++i) {
    const std::string theirs = fmt::format("model.layers.{}.", i), ours = fmt::format("blocks.{}.", i);
    parts.push_back({theirs + "input_layernorm.weight", ours + "attention.norm.weight", {width}});
    parts.push_back({theirs + "self_attn.q_proj.weight", ours + "attention.qkv.weight", {query, width}, 0, attention.heads});
    parts.push_back({theirs + "self_attn.k_proj.weight", ours + "attention.qkv.weight", {kv, width}, query, attention.kv_heads});
    parts.push_back({theirs + "self_attn.v_proj.weight", ours + "attention.qkv.weight", {kv, width}, query + kv});
    parts.push_back({theirs + "self_attn.o_proj.weight", ours + "attention.output.weight", {width, query}});
    parts.push_back({theirs + "post_attention_layernorm.weight", ours + "feed_forward.norm.weight", {width}});
    parts.push_back({theirs + "mlp.gate_proj.weight", ours + "feed_forward.gate_up.weight", {inner, width}});
    parts.push_back({theirs + "mlp.up_proj.weight", ours + "feed_forward.gate_up.weight", {inner, width}, inner});
    parts.push_back({theirs + "mlp.down_proj.weight", ours + "feed_forward.down.weight", {width, inner}});
  }
  parts.push_back({"model.norm.weight", "norm.weight", {width}});
  if (!model.tie_embeddings) parts.push_back({"lm_head.weight", "head.weight", {model.vocab_size, width}});
  return parts;
}

std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, within = row % head_dim;
  return head * head_dim + within / 2 + (within % 2) * (head_dim / 2);
}

}  // namespace meristem
