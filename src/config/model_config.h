// `model:` of a run's YAML. Field names are the YAML keys, letter for letter. What is left to be derived is resolved by validate.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/schema.h"
#include "depth/plan.h"

namespace meristem {

// An amount of training: optimizer steps, or tokens (input positions; written "2e9 tokens"), turned into updates by updates_of().
struct Amount {
  double value = 0;
  bool in_tokens = false;
};

// A depth plan of a config, and its text, which is what a dump writes.
struct WrittenPlan {
  std::string text;  // empty: none
  DepthPlan plan;    // what the text says, from validate on

  WrittenPlan() = default;
  // Parsed at once; InputError where it is no plan.
  WrittenPlan(std::string written) : text(std::move(written)), plan(DepthPlan::parse(text)) {}  // NOLINT(google-explicit-constructor)
  WrittenPlan(const char* written) : WrittenPlan(std::string(written)) {}                       // NOLINT(google-explicit-constructor)
  bool empty() const { return text.empty(); }
};

enum class RopeScalingKind { kLlama3 };
constexpr auto words_of(RopeScalingKind) { return std::array{"llama3"}; }

// Of models whose rotary frequencies were stretched for longer texts; ops/rope.h has the equation.
struct RopeScalingConfig {
  RopeScalingKind kind = RopeScalingKind::kLlama3;
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_positions = 8192;
};
template <class V>
void describe(V& v, RopeScalingConfig& c) {
  v.value("kind", c.kind, one_of<RopeScalingKind>("Kind of scaling, as Llama 3.1 has it"));
  v.value("factor", c.factor, within(1, 1e6, "Low frequencies are divided by this"));
  v.value("low_freq_factor", c.low_freq_factor, within(0, 1e6, "Frequencies that turn at most so often in original_positions are low"));
  v.value("high_freq_factor", c.high_freq_factor, within(0, 1e6, "Those that turn at least so often stay as they are", false, true));
  v.value("original_positions", c.original_positions, within(1, 1 << 30, "Positions of the model before it was stretched"));
}

enum class QkNormOver { kHeads, kAll };
constexpr auto words_of(QkNormOver) { return std::array{"heads", "all"}; }

struct AttentionConfig {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;  // 0: as many as heads (resolved)
  std::int64_t head_dim = 0;  // 0: width / heads (resolved)
  double rope_theta = 10000;
  bool qk_norm = false;
  bool qkv_bias = false;
  std::int64_t window = 0;
  std::int64_t full_every = 0;
  std::int64_t no_rope_every = 0;
  double score_cap = 0;
  std::optional<RopeScalingConfig> rope_scaling = {};
  QkNormOver qk_norm_over = QkNormOver::kHeads;

  bool turns(std::int64_t block) const { return no_rope_every == 0 || (block + 1) % no_rope_every != 0; }  // whether it has RoPE
  std::int64_t window_of(std::int64_t block) const { return full_every > 0 && (block + 1) % full_every == 0 ? 0 : window; }
};
template <class V>
void describe(V& v, AttentionConfig& c) {
  v.value("heads", c.heads, within(1, 4096, "Query heads"));
  v.value("kv_heads", c.kv_heads, within(0, 4096, "Key/value heads; divides heads. 0: as many as heads"));
  v.value("head_dim", c.head_dim, within(0, 4096, "Width of a head, even. 0: width / heads"));
  v.value("rope_theta", c.rope_theta, within(0, 1e12, "Base of the rotary frequencies", false, true));
  v.value("qk_norm", c.qk_norm, any("RMSNorm of queries and keys before RoPE"));
  v.value("qk_norm_over", c.qk_norm_over,
          one_of<QkNormOver>("qk_norm: over what the mean square runs. heads: each head by itself, with gains that all heads share; all: a "
                             "token's queries of all heads together, and its keys, as OLMo 2 has it"));
  v.value("qkv_bias", c.qkv_bias, any("Biases of queries, keys and values, as Qwen2 has them"));
  v.value("window", c.window, within(0, 1 << 30, "Tokens that one sees, itself the last of them. 0: all before it"));
  v.value("full_every", c.full_every,
          within(0, 4096, "Every so manieth block has no window, as Gemma 2 has it: blocks 1, 3, 5, … of 2. 0: all have the window"));
  v.value("score_cap", c.score_cap, within(0, 1e6, "Scores s become cap tanh(s / cap), as Gemma 2 has them. 0: none"));
  v.value("no_rope_every", c.no_rope_every,
          within(0, 4096, "Every so manieth block has no RoPE, as SmolLM3 has it: blocks 3, 7, 11, … of 4. 0: all have RoPE"));
  v.optional_section("rope_scaling", c.rope_scaling, "Rotary frequencies stretched for longer texts; null: as rope_theta says");
}

enum class FeedForwardKind { kSwiglu, kGeglu, kExperts };
constexpr auto words_of(FeedForwardKind) { return std::array{"swiglu", "geglu", "experts"}; }

struct FeedForwardConfig {
  FeedForwardKind kind = FeedForwardKind::kSwiglu;
  std::int64_t inner = 0;  // swiglu and geglu, 0: the multiple of 64 nearest to 8/3 width (resolved); experts: of each, required
  // Of kind experts alone.
  std::int64_t count = 0, active = 0;  // routed experts, and how many of them a call uses; required
  std::int64_t shared = 0;             // experts that are always on, beside the routed ones
  std::int64_t router_dim = 0;         // 0: 64 (resolved)
  std::optional<double> balance_rate;  // null: 1e-3 (resolved)
};
template <class V>
void describe(V& v, FeedForwardConfig& c) {
  v.value("kind", c.kind, one_of<FeedForwardKind>("Kind of feed-forward. geglu: as swiglu, with the tanh form of GELU in SiLU's place"));
  v.value("inner", c.inner, within(0, 1 << 24, "Hidden width, of each expert. 0: without experts the multiple of 64 nearest to 8/3 width"));
  v.value("count", c.count, within(0, 1 << 20, "experts: routed experts of a block"));
  v.value("active", c.active, within(0, 1 << 20, "experts: routed experts that a token uses in one call; at most count"));
  v.value("shared", c.shared, within(0, 1 << 10, "experts: additional experts that are always on"));
  v.value("router_dim", c.router_dim, within(0, 1 << 16, "experts: width of the router's queries and keys, even. 0: 64"));
  v.value("balance_rate", c.balance_rate, within(0, 1, "experts: how far the balance bias moves after each update. null: 1e-3"));
}

enum class DepthAttentionKind { kSeparate, kJoint, kValues };
constexpr auto words_of(DepthAttentionKind) { return std::array{"separate", "joint", "values"}; }
enum class DepthKeys { kStates, kUpdates };
constexpr auto words_of(DepthKeys) { return std::array{"states", "updates"}; }
enum class DepthPosition { kRope, kNone };
constexpr auto words_of(DepthPosition) { return std::array{"rope", "none"}; }

struct DepthAttentionConfig {
  DepthAttentionKind kind = DepthAttentionKind::kSeparate;
  // Of kind separate alone; resolved.
  std::int64_t heads = 0;                 // 0: one for each 256 of width
  std::optional<DepthKeys> keys;          // empty: states
  std::optional<DepthPosition> position;  // empty: rope
};
template <class V>
void describe(V& v, DepthAttentionConfig& c) {
  v.value("kind", c.kind,
          one_of<DepthAttentionKind>(
              "separate: a mixer of its own; joint: keys of earlier calls join sequence attention's softmax; values: sequence "
              "attention's values are mixed over depth"));
  v.value("heads", c.heads, within(0, 4096, "separate: heads; divides width. 0: one for each 256 of width"));
  v.value("keys", c.keys,
          one_of_or_empty<DepthKeys>(
              "separate: keys and values come from the token's states, or from what each call added (updates). Empty: states"));
  v.value("position", c.position, one_of_or_empty<DepthPosition>("separate: RoPE over the depth index. Empty: rope"));
}

// How often the plan's one loop runs (model.loop.repeats). At most one member is set; none: as the plan's text says.
struct RepeatsConfig {
  std::optional<std::int64_t> number;
  std::vector<std::pair<Amount, std::int64_t>> schedule;  // {0: 1, 170000: 2}: from each update on, that many repeats
  std::optional<RepeatDistribution> sampled;              // {kind: poisson_lognormal, …}: drawn for each update
  bool is_written() const { return !number && schedule.empty() && !sampled; }
};
// The map form that draws. Its first key is `kind`.
struct SampledRepeats {
  RepeatDistribution& distribution;
  std::string kind = {};
};
template <class V>
void describe(V& v, SampledRepeats& c) {
  v.value("kind", c.kind, required(one_of({"poisson_lognormal"}, "1 + Poisson(rate), the rate log-normal")));
  v.value("mean", c.distribution.mean, required(within(1, DepthPlan::kMaxCalls, "Mean of the repeats")));
  v.value("sigma", c.distribution.sigma, within(0, 4, "Standard deviation of the rate's logarithm"));
  v.value("max", c.distribution.max, required(within(1, DepthPlan::kMaxCalls, "Larger draws become this")));
}

enum class Injection { kNone, kAdd, kConcat };
constexpr auto words_of(Injection) { return std::array{"none", "add", "concat"}; }

struct LoopConfig {
  RepeatsConfig repeats;
  Injection injection = Injection::kNone;     // what a repeat is told of the loop's first input
  std::optional<std::int64_t> backprop_last;  // gradients flow through the last so many repeats; null: through all
  bool is_set() const { return !repeats.is_written() || injection != Injection::kNone || backprop_last.has_value(); }
};
template <class V>
void describe(V& v, LoopConfig& c) {
  v.value("repeats", c.repeats,
          within(1, DepthPlan::kMaxCalls,
                 "Repeats of the plan's loop, instead of the count in its text: a number; {UPDATE: number, …} from update 0 on; or "
                 "{kind: poisson_lognormal, mean, sigma, max}, drawn for each update. null: as written"));
  v.value(
      "injection", c.injection,
      one_of<Injection>("How each repeat sees the loop's first input e. none: not at all; add: h + e; concat: a learned map of [h, e]"));
  v.value("backprop_last", c.backprop_last,
          within(1, DepthPlan::kMaxCalls, "Gradients flow through this many repeats only, the last ones. null: through all"));
}

enum class Norm { kPre, kPost, kBoth, kSandwich };
constexpr auto words_of(Norm) { return std::array{"pre", "post", "both", "sandwich"}; }
constexpr bool norms_inputs(Norm norm) { return norm != Norm::kPost; }                          // what a mixer reads
constexpr bool norms_outputs(Norm norm) { return norm == Norm::kPost || norm == Norm::kBoth; }  // what it returns

struct ModelConfig {
  std::string architecture = "decoder";  // models/registry.h knows them
  std::int64_t vocab_size = 0;           // required
  std::int64_t width = 256;
  std::int64_t blocks = 6;  // unique blocks at full depth
  WrittenPlan depth_plan;   // empty: every block once, or what the architecture has in its place (resolved)
  Norm norm = Norm::kPre;
  LoopConfig loop;
  double norm_eps = 1e-5;
  double embedding_scale = 1;
  double logit_cap = 0;
  AttentionConfig attention;
  FeedForwardConfig feed_forward;
  std::optional<DepthAttentionConfig> depth_attention;
  bool tie_embeddings = true;
  std::vector<std::pair<std::string, double>> options;  // an architecture's own numbers; which there are, the architecture says

  // A plan of this model as text: its loop is a group, even where that runs once if there are settings for it.
  std::string plan_text(const DepthPlan& plan) const { return loop.is_set() ? plan.print_loop() : plan.print_grouped(); }

  // options[key] as a whole number, `otherwise` where it is not set.
  std::int64_t option(const std::string& key, std::int64_t otherwise) const {
    for (const auto& [name, value] : options) {
      if (name == key) return static_cast<std::int64_t>(value);
    }
    return otherwise;
  }
};
template <class V>
void describe(V& v, ModelConfig& c) {
  v.value("architecture", c.architecture, any("Name of an architecture: decoder, dreamer, or one that you register"));
  v.value("vocab_size", c.vocab_size, required(within(2, 1 << 24, "Size of the vocabulary")));
  v.value("width", c.width, within(1, 1 << 17, "Width of the residual stream"));
  v.value("blocks", c.blocks, within(1, 4096, "Unique blocks at full depth"));
  v.value("depth_plan", c.depth_plan, any("Block calls that a token passes through, e.g. \"0-3, (4-7)x4, 8-11\". Empty: every block once"));
  v.value(
      "norm", c.norm,
      one_of<Norm>("pre: before each mixer; post: of what each mixer returns, before it is added, and none before the mixer; both: before "
                   "each mixer and of what it returns; sandwich: before each mixer and after each addition to the residual stream"));
  v.section("loop", c.loop, "The plan's loop");
  v.value("norm_eps", c.norm_eps, within(0, 1, "Epsilon of RMSNorm", false, true));
  v.value("embedding_scale", c.embedding_scale, within(0, 1e6, "The residual stream begins with the embedding times this", false, true));
  v.value("logit_cap", c.logit_cap, within(0, 1e6, "Logits x become cap tanh(x / cap), as Gemma 2 has them. 0: none"));
  v.section("attention", c.attention, "Sequence attention");
  v.section("feed_forward", c.feed_forward, "Feed-forward");
  v.optional_section("depth_attention", c.depth_attention, "Attention of a token over its own earlier states; null: none");
  v.value("tie_embeddings", c.tie_embeddings, any("Use the embedding as the output head"));
  v.numbers("options", c.options, "An architecture's own numbers; its line of registration lists them");
}

}  // namespace meristem
