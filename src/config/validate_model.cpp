#include "config/validate_model.h"

#include <algorithm>
#include <cmath>

#include "config/refuse.h"
#include "core/text.h"

namespace meristem {
namespace {

// Errors of the plan library, under the key that held the plan.
DepthPlan parse_plan(const std::string& text, const std::string& key, std::int64_t blocks, bool every_block) {
  try {
    DepthPlan plan = DepthPlan::parse(text);
    plan.check(blocks, every_block);
    return plan;
  } catch (const InputError& error) {
    throw InputError(key + ": " + error.what());
  }
}

void resolve_feed_forward(ModelConfig& model) {
  FeedForwardConfig& ff = model.feed_forward;
  if (ff.kind == "swiglu") {
    for (const auto& [key, given] : {std::pair{"count", ff.count != 0},
                                     {"active", ff.active != 0},
                                     {"shared", ff.shared != 0},
                                     {"router_dim", ff.router_dim != 0},
                                     {"balance_rate", ff.balance_rate.has_value()}}) {
      if (given) refuse("model.feed_forward.{}: has no effect with kind: swiglu; it belongs to kind: experts", key);
    }
    if (ff.inner == 0) ff.inner = std::max<std::int64_t>(64, std::llround(static_cast<double>(model.width) * 8 / 3 / 64) * 64);
    return;
  }
  for (const auto& [key, value] : {std::pair{"count", ff.count}, {"active", ff.active}, {"inner", ff.inner}}) {
    if (value == 0) refuse("model.feed_forward.{}: is missing; kind: experts needs it", key);
  }
  if (ff.active > ff.count) refuse("model.feed_forward.active: found {}; allowed: at most count = {}", ff.active, ff.count);
  if (ff.router_dim == 0) ff.router_dim = 64;
  if (ff.router_dim % 2 != 0)
    refuse("model.feed_forward.router_dim: found {}; allowed: an even number, since the depth encoding has pairs", ff.router_dim);
  if (!ff.balance_rate) ff.balance_rate = 1e-3;
}

void resolve_depth_attention(std::int64_t width, DepthAttentionConfig& depth) {
  if (depth.kind != "separate") {
    for (const auto& [key, given] :
         {std::pair{"heads", depth.heads != 0}, {"keys", !depth.keys.empty()}, {"position", !depth.position.empty()}}) {
      if (given)
        refuse("model.depth_attention.{}: has no effect with kind: {}, which uses sequence attention's heads and keys", key, depth.kind);
    }
    return;
  }
  if (depth.heads == 0) depth.heads = std::max<std::int64_t>(1, width / 256);
  if (depth.keys.empty()) depth.keys = "states";
  if (depth.position.empty()) depth.position = "rope";
  if (width % depth.heads != 0) refuse("model.depth_attention.heads: found {}; allowed: a divisor of width = {}", depth.heads, width);
  if (depth.position == "rope" && width / depth.heads % 2 != 0) {
    refuse("model.depth_attention.heads: found {}, which makes heads of {}; allowed: an even width, since RoPE turns pairs", depth.heads,
           width / depth.heads);
  }
}

// Every block once; of a dreamer its cycle until 16 calls are made.
std::string default_plan(const ModelConfig& model) {
  constexpr std::int64_t kDreamerCalls = 16;
  if (model.architecture != "dreamer") return DepthPlan::plain(model.blocks).print();
  if (kDreamerCalls % model.blocks != 0) {
    refuse("model.blocks: found {}; allowed: a divisor of dreamer's {} calls, or give model.depth_plan", model.blocks, kDreamerCalls);
  }
  return fmt::format("({})x{}", DepthPlan::plain(model.blocks).print(), kDreamerCalls / model.blocks);
}

}  // namespace

std::string resolve_plan(const std::string& text, const std::string& key, const ModelConfig& model, std::int64_t blocks) {
  const DepthPlan plan = parse_plan(text, key, blocks, true);
  if (!model.loop.is_set()) return plan.print();
  if (plan.has_one_loop()) return plan.print_loop();
  const char* setting = !model.loop.repeats.is_written() ? "repeats" : model.loop.injection != "none" ? "injection" : "backprop_last";
  refuse("{}: found {}; model.loop.{} needs exactly one loop group, such as (0-3)x2, and nothing repeated beside or in it", key,
         in_quotes(text), setting);
}

void resolve_model(ModelConfig& model) {
  AttentionConfig& attention = model.attention;
  if (attention.kv_heads == 0) attention.kv_heads = attention.heads;
  if (attention.heads % attention.kv_heads != 0) {
    refuse("model.attention.kv_heads: found {}; allowed: a divisor of heads = {}", attention.kv_heads, attention.heads);
  }
  if (attention.head_dim == 0) {
    if (model.width % attention.heads != 0)
      refuse("model.attention.heads: found {}; allowed: a divisor of width = {}, or give head_dim", attention.heads, model.width);
    attention.head_dim = model.width / attention.heads;
  }
  if (attention.head_dim % 2 != 0)
    refuse("model.attention.head_dim: found {}; allowed: an even number, since RoPE turns pairs", attention.head_dim);
  resolve_feed_forward(model);
  if (model.depth_attention) resolve_depth_attention(model.width, *model.depth_attention);
  if (model.depth_plan.empty()) model.depth_plan = default_plan(model);
  model.depth_plan = resolve_plan(model.depth_plan, "model.depth_plan", model, model.blocks);
}

}  // namespace meristem
