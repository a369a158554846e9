#include "models/costs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

// What a call keeps depends on the paths of attention and products: on this machine's device, unless the config says which.
ops::Path path_of(const RunConfig& config, std::string KernelsConfig::*asked, ops::Path ops::Paths::*path, bool in_windows = false) {
  if (config.kernels.*asked == "fused") return ops::Path::kFused;  // wherever the run will be
  KernelsConfig kernels;
  kernels.*asked = config.kernels.*asked;
  ops::ModelShapes shapes;
  shapes.width = config.model.width;
  shapes.head_dim = config.model.attention.head_dim;
  shapes.packed = config.data.document_mask;
  shapes.windows = config.model.attention.window > 0;
  shapes.score_cap = config.model.attention.score_cap > 0;
  const at::ScalarType compute = config.precision.compute == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  const ops::Paths found = ops::resolve_paths(kernels, pick_device(), compute, {}, shapes);
  return in_windows ? found.attention_of(config.model.attention.window) : found.*path;
}

std::shared_ptr<Model> build_without_storage(const RunConfig& config, const ModelRegistry& registry, std::int64_t blocks) {
  ModelConfig model = config.model;
  model.blocks = blocks;
  ModelBuild build;
  build.placement.device = at::kMeta;
  build.paths.attention = path_of(config, &KernelsConfig::attention, &ops::Paths::attention);
  build.paths.linear = path_of(config, &KernelsConfig::linear, &ops::Paths::linear);
  build.paths.experts = path_of(config, &KernelsConfig::experts, &ops::Paths::experts);
  if (config.model.attention.window > 0)
    build.paths.attention_in_windows = path_of(config, &KernelsConfig::attention, &ops::Paths::attention, /*in_windows=*/true);
  return registry.make(model, build, config.data.sequence_length);
}

// `active`: parameters that a token's way can touch, a block's experts as often as the plan calls it.
ParameterCount count_parameters(const Model& model, const DepthPlan& plan) {
  ParameterCount count;
  for (const auto& info : model.parameter_infos()) {
    count.total += info.tensor.numel();
    if (info.role == Role::kEmbedding) count.embedding += info.tensor.numel();
  }
  count.active = count.total;
  std::map<std::int64_t, double> calls;
  for (const std::int64_t block : plan.calls()) calls[block] += 1;
  for (const auto& [block, times] : calls) {
    const nn::CallCost cost = model.call_cost(block, {});
    count.active -= std::llround(cost.expert_parameters * std::max(0.0, 1 - cost.active_share * times));
  }
  return count;
}

FlopCount count_flops(const Model& model, const DepthPlan& plan, std::int64_t context) {
  FlopCount flops;
  flops.head = model.head_flops();
  for (std::int64_t r = 0; r < plan.num_calls(); ++r) {
    const nn::CallCost cost = model.call_cost(plan.calls()[static_cast<std::size_t>(r)], {context, r});
    flops.by_call.push_back(cost.matmul_flops + cost.score_flops);
    if (plan.loop() && plan.loop()->begins_repeat(r)) flops.by_call.back() += model.injection_cost().matmul_flops;
    flops.scores += cost.score_flops;
    flops.forward += flops.by_call.back();
  }
  flops.forward += flops.head;
  flops.train = 3 * flops.forward;
  return flops;
}

double bytes_of(std::optional<Precision> type) { return type == Precision::kBf16 ? 2 : 4; }

// Which calls of a plan backward comes to, and which of them run again there.
class Backward {
 public:
  Backward(const RunConfig& config, const DepthPlan& plan) : config_(config), plan_(plan) {}

  // Behind a truncation nothing is kept, and before the loop only what an injection or the memory of the depth leads to.
  bool reaches(std::int64_t r) const {
    if (first_learning() == 0) return true;
    if (plan_.loop()->holds(r)) return plan_.loop()->repeat_of(r) >= first_learning();
    return r >= plan_.loop()->end() || config_.model.loop.injection != Injection::kNone || config_.model.depth_attention;
  }
  bool checkpointed(std::int64_t r) const {
    const std::int64_t every = config_.memory.activation_checkpointing.every;
    return every > 0 && r % every == 0;
  }

 private:
  // First repeat that gradients flow through.
  std::int64_t first_learning() const {
    const auto& last = config_.model.loop.backprop_last;
    return plan_.loop() && last ? std::max<std::int64_t>(0, plan_.loop()->repeats - *last) : 0;
  }

  const RunConfig& config_;
  const DepthPlan& plan_;
};

// The block that a parameter belongs to; nothing where it is none's.
std::optional<std::int64_t> block_of(const ParameterInfo& info) {
  if (info.name.rfind("blocks.", 0) != 0) return std::nullopt;
  return std::stoll(info.name.substr(7));
}

// What one micro-batch holds at its peak.
struct ActivationMemory {
  double peak = 0;            // bytes beside weights, optimizer state and flat gradients
  double loop_gradients = 0;  // bytes: the most that gradients of blocks called more than once take while their sum is not complete
  double kept = 0;            // bytes, part of the peak: what our CPU kernels keep when it is over
};

// Walks through a micro-batch as training does: forward over the calls, the head, backward.
class MicroBatchWalk {
 public:
  MicroBatchWalk(const RunConfig& config, const Model& model, const DepthPlan& plan, std::int64_t strands)
      : config_(config),
        model_(model),
        plan_(plan),
        backward_(config, plan),
        element_(bytes_of(config.precision.compute)),
        strands_(strands),
        threads_(strands == 1 ? at::get_num_threads() : 1),
        tokens_(static_cast<double>((config.batch.micro_sequences + strands - 1) / strands * config.data.sequence_length)),
        width_(static_cast<double>(config.model.width)),
        products_ours_(path_of(config, &KernelsConfig::linear, &ops::Paths::linear) == ops::Path::kFused),
        experts_ours_(pick_device().is_cpu() && path_of(config, &KernelsConfig::experts, &ops::Paths::experts) == ops::Path::kFused) {
    for (std::int64_t r = 0; r < plan.num_calls(); ++r) kept_.push_back(kept_by(r));
  }

  // Of all strands, at their peaks at the same time.
  ActivationMemory result() {
    const ActivationMemory one = of_strand();
    const double strands = static_cast<double>(strands_);
    return {strands * one.peak, strands * one.loop_gradients, strands * one.kept};
  }

 private:
  ActivationMemory of_strand() {
    double kept = 0;
    for (const double bytes : kept_) kept += bytes;
    ActivationMemory memory;
    memory.peak = std::max(kept + head_forward(), kept + head_backward());
    const std::vector<BlockGradient> gradients = block_gradients();
    double pending = 0;     // of blocks that were called after r and are called again before
    double remembered = 0;  // gradients of what calls up to r left for later ones
    for (std::int64_t r = 0; r < plan_.num_calls(); ++r) remembered += backward_.reaches(r) ? remembered_by(r) : 0;
    for (std::int64_t r = plan_.num_calls() - 1; r >= 0; --r) {
      if (!backward_.reaches(r)) continue;
      const BlockGradient& gradient = gradients[static_cast<std::size_t>(called(r))];
      memory.loop_gradients = std::max(memory.loop_gradients, pending);
      memory.peak = std::max(memory.peak, kept + pending + remembered + call_backward(r, gradient));
      remembered -= remembered_by(r);
      kept -= kept_[static_cast<std::size_t>(r)];
      if (gradient.first == gradient.last) continue;
      if (r == gradient.last) pending += gradient.bytes;
      if (r == gradient.first) pending -= gradient.bytes;
    }
    memory.kept = workspace();
    memory.peak += memory.kept;
    return memory;
  }

  std::int64_t called(std::int64_t r) const { return plan_.calls()[static_cast<std::size_t>(r)]; }
  nn::CallCost cost_of(std::int64_t r) const { return model_.call_cost(called(r), {config_.data.sequence_length, r}); }
  double saved_by(std::int64_t r) const {
    const nn::CallCost cost = cost_of(r);
    return tokens_ * (element_ * cost.saved_elements + 4 * (cost.saved_fp32 + (element_ == 4 ? 0 : cost.saved_casts)));
  }
  // Keys and values that call r leaves for later calls.
  double remembered_by(std::int64_t r) const { return element_ * tokens_ * cost_of(r).memory_elements; }

  double kept_by(std::int64_t r) const {
    if (!backward_.reaches(r)) return 0;
    double kept = backward_.checkpointed(r) ? bytes_of(config_.precision.residual) * tokens_ * width_ + remembered_by(r) : saved_by(r);
    if (!plan_.loop() || !plan_.loop()->begins_repeat(r)) return kept;
    // Depth attention reads the stream as it was before the injection, where that makes another one.
    const bool apart = config_.model.depth_attention && config_.model.loop.injection != Injection::kNone;
    if (apart) kept += bytes_of(config_.precision.residual) * tokens_ * width_;
    return kept + element_ * tokens_ * model_.injection_cost().saved_elements;
  }

  // Bytes of an element of what the head keeps of its weight's gradient: a sum in fp32 where our kernels make it or there are several
  // chunks.
  double head_sum() const { return products_ours_ || head_chunk() < tokens_ ? 4 : element_; }
  double head_chunk() const {
    return std::min(tokens_, static_cast<double>(nn::head_chunk(config_.model.vocab_size, config_.model.width)));
  }
  // The head computes its gradient in forward: a chunk of logits, the hidden states with their norm and gradient, the weight's gradient;
  // where LibTorch sums chunks of bf16, each one's part beside the sum, and its copy in fp32.
  double head_forward() const {
    const double vocab = static_cast<double>(config_.model.vocab_size);
    const double part = head_sum() > element_ && !products_ours_ ? 4 + 2 : 0;
    return element_ * (head_chunk() * vocab + 3 * tokens_ * width_) + (head_sum() + part) * vocab * width_;
  }
  // Both saved gradients; neither is scaled, and the weight's is added to its place.
  double head_backward() const {
    return 2 * element_ * tokens_ * width_ + head_sum() * static_cast<double>(config_.model.vocab_size) * width_;
  }
  // What our CPU kernels keep from step to step.
  double workspace() const {
    if (!pick_device().is_cpu()) return 0;
    const at::ScalarType compute = element_ == 2 ? at::kBFloat16 : at::kFloat;
    ops::ProductWorkspace most;
    const AttentionConfig& attention = config_.model.attention;
    if (attention.kv_heads > 0 && path_of(config_, &KernelsConfig::attention, &ops::Paths::attention) == ops::Path::kFused) {
      const ops::HeadShape shape{attention.heads, attention.kv_heads, attention.head_dim, attention.window};
      most.thread = static_cast<double>(ops::attention_workspace(shape, config_.data.sequence_length, compute));
    }
    hold_products(most, compute);
    return most.right + most.left + static_cast<double>(threads_) * most.thread;
  }
  void hold_products(ops::ProductWorkspace& most, at::ScalarType compute) const {
    const auto tokens = static_cast<std::int64_t>(tokens_);
    const std::int64_t width = config_.model.width, vocab = config_.model.vocab_size;
    if (products_ours_)
      most.hold(ops::product_workspace(std::min(tokens, nn::head_chunk(vocab, width)), width, vocab, 1, compute, threads_));
    for (const ParameterInfo& info : model_.parameter_infos()) {
      const auto sizes = info.tensor.sizes();
      if (info.role != Role::kLinear || sizes.size() < 2) continue;
      const bool experts = sizes.size() == 3;
      if (!(experts ? experts_ours_ : products_ours_)) continue;
      const std::int64_t rows = tokens * (experts ? std::max<std::int64_t>(1, config_.model.feed_forward.active) : 1);
      most.hold(ops::product_workspace(rows, sizes.back(), sizes[sizes.size() - 2], experts ? sizes[0] : 1, compute, threads_));
    }
  }
  // By block: its gradient as far as it is handed on, the largest tensor's, and the first and last call that adds to it.
  struct BlockGradient {
    double bytes = 0, largest = 0;
    std::int64_t first = -1, last = -1;
  };
  // The gradient of the stream, and of the block's own, one tensor at a time. Where the call ran again: first all that it saved, with the
  // gradients inside it, about a third of that (elsewhere they take the place of what is freed on the way); in the end the gradients of all
  // the block's tensors.
  double call_backward(std::int64_t r, const BlockGradient& gradient) const {
    const double again = std::max(saved_by(r) * 4 / 3, saved_by(r) / 3 + gradient.bytes);
    return element_ * tokens_ * width_ + (backward_.checkpointed(r) ? again : gradient.largest);
  }
  std::vector<BlockGradient> block_gradients() const {
    std::vector<BlockGradient> gradients(static_cast<std::size_t>(plan_.max_block() + 1));
    for (const ParameterInfo& info : model_.parameter_infos()) {
      if (!block_of(info)) continue;
      const auto block = static_cast<std::size_t>(*block_of(info));
      if (block >= gradients.size()) continue;
      // Experts' by LibTorch are handed on; others are added to their places, in bf16 by LibTorch as a whole. Gains weigh nothing.
      const double bytes = element_ * static_cast<double>(info.tensor.numel());
      const bool experts = info.tensor.dim() == 3, handed_on = experts && !experts_ours_;
      if (handed_on) gradients[block].bytes += bytes;
      if (handed_on || (element_ == 2 && !experts && !products_ours_)) gradients[block].largest = std::max(gradients[block].largest, bytes);
    }
    for (std::int64_t r = 0; r < plan_.num_calls(); ++r) {
      if (!backward_.reaches(r)) continue;
      BlockGradient& gradient = gradients[static_cast<std::size_t>(called(r))];
      if (gradient.first < 0) gradient.first = r;
      gradient.last = r;
    }
    return gradients;
  }

  const RunConfig& config_;
  const Model& model_;
  const DepthPlan& plan_;
  Backward backward_;
  double element_;
  std::int64_t strands_, threads_;  // threads of each strand
  double tokens_;                   // of a strand
  double width_;
  bool products_ours_, experts_ours_;  // our CPU kernels'
  std::vector<double> kept_;
};

MemoryEstimate estimate_memory(const RunConfig& config, const Model& model, const DepthPlan& plan, std::int64_t parameters) {
  const double count = static_cast<double>(parameters), element = bytes_of(config.precision.compute);
  MemoryEstimate memory;
  memory.weights = count * (element == 2 ? 6 : 4);
  for (const auto& [name, tensor] : state_layout(model.parameter_infos(), config.optimizer)) {
    memory.optimizer += static_cast<double>(tensor.nbytes());
  }
  memory.update = update_workspace(model.parameter_infos(), config.optimizer);
  const std::int64_t strands = pick_device().is_cpu() ? strands_of(config, model, config.batch.micro_sequences, at::get_num_threads()) : 1;
  memory.gradients = count * 4;
  memory.strand_gradients = memory.gradients * static_cast<double>(strands - 1);
  const ActivationMemory activations = MicroBatchWalk(config, model, plan, strands).result();
  memory.activations = activations.peak;
  memory.kept = activations.kept;
  memory.loop_gradients = activations.loop_gradients;
  return memory;
}

// A block's gradients are complete when backward is in the first call that it reaches, from the block's last parameter to its first; all at
// the end where the call runs again there.
std::vector<ParameterUse> parameter_uses(const RunConfig& config, const std::vector<ParameterInfo>& parameters, const DepthPlan& plan) {
  const Backward backward(config, plan);
  std::map<std::int64_t, ParameterUse> blocks;
  for (std::int64_t r = plan.num_calls() - 1; r >= 0; --r) {
    ParameterUse& use = blocks[plan.calls()[static_cast<std::size_t>(r)]];
    use.first_use = r;
    if (backward.reaches(r)) use.complete_in = r;
  }
  std::map<std::int64_t, double> sizes, behind;  // of a block, and of those of its parameters that are complete by then
  for (const ParameterInfo& info : parameters) sizes[block_of(info).value_or(-1)] += static_cast<double>(info.tensor.numel());
  std::vector<ParameterUse> uses(parameters.size());
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const ParameterInfo& info = parameters[i];
    if (const auto block = block_of(info)) {
      uses[i] = blocks[*block];
      behind[*block] += static_cast<double>(info.tensor.numel());
      if (!backward.checkpointed(uses[i].complete_in)) uses[i].share = behind[*block] / sizes[*block];
    } else if (info.name.rfind("norm.", 0) == 0 || info.name.rfind("head.", 0) == 0) {
      uses[i].complete_in = uses[i].first_use = plan.num_calls();
    }  // the embedding, tied or not, is complete at the very end; so is the map of an injection, about
  }
  return uses;
}

}  // namespace

std::int64_t strands_of(const RunConfig& config, const Model& model, std::int64_t micro_sequences, std::int64_t threads) {
  if (threads == 1 || config.parallel.threads == ThreadWork::kOperators) return 1;
  const bool asked = config.parallel.threads == ThreadWork::kSequences;
  const auto no = [&](const std::string& why) -> std::int64_t {
    if (asked) throw InputError(fmt::format("parallel.threads: found sequences; allowed: auto or operators, since {}", why));
    return 1;
  };
  const std::int64_t most = (micro_sequences + threads - 1) / threads;
  if (10 * most * threads > 11 * micro_sequences) {
    return no(fmt::format("{} threads cannot share a micro-batch of {} (batch.micro_sequences) evenly", threads, micro_sequences));
  }
  if (!model.runs_on_strands()) return no("a mixer of the model does not run on several threads at once");
  if (asked) return threads;
  constexpr std::int64_t kFewestTokens = 256;  // of a strand
  const std::int64_t tokens = micro_sequences * config.data.sequence_length;
  if (tokens < kFewestTokens * threads || config.memory.activation_checkpointing.every > 0) return 1;
  double parameters = 0, kept = 0;  // bytes
  std::int64_t blocks = 0;          // of the model, which may grow yet
  for (const ParameterInfo& info : model.parameter_infos()) {
    parameters += 4 * static_cast<double>(info.tensor.numel());
    blocks = std::max(blocks, block_of(info).value_or(-1) + 1);
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    kept += bytes_of(config.precision.compute) * static_cast<double>(tokens) *
            model.call_cost(block, {config.data.sequence_length, 0}).saved_elements;
  }
  return static_cast<double>(threads - 1) * parameters <= kept / 4 ? threads : 1;
}

UpdateRun update_run(const RunConfig& config, const ModelRegistry& registry, const Stage& stage) {
  const auto model = build_without_storage(config, registry, stage.blocks);
  const FlopCount flops = count_flops(*model, stage.plan, config.data.sequence_length);
  const Backward backward(config, stage.plan);
  UpdateRun run;
  for (std::int64_t r = 0; r < stage.plan.num_calls(); ++r) {
    const double once = flops.by_call[static_cast<std::size_t>(r)];
    run.calls.push_back({once, backward.reaches(r) ? once * (backward.checkpointed(r) ? 3 : 2) : 0});
    run.run_flops += run.calls.back().forward + run.calls.back().backward;
  }
  run.head = {3 * flops.head, 0};
  run.run_flops += run.head.forward;
  run.train_flops = flops.train;
  run.parameters = model->parameter_infos();
  run.uses = parameter_uses(config, run.parameters, stage.plan);
  return run;
}

StageCost stage_cost(const RunConfig& config, const ModelRegistry& registry, const Stage& stage) {
  const auto model = build_without_storage(config, registry, stage.blocks);
  StageCost cost;
  cost.stage = stage;
  cost.parameters = count_parameters(*model, stage.plan);
  cost.flops = count_flops(*model, stage.plan, config.data.sequence_length);
  const double element = bytes_of(config.precision.compute);
  for (const std::int64_t block : stage.plan.calls()) {
    const nn::CallCost call = model->call_cost(block, {config.data.sequence_length, 0});
    cost.kv_bytes_per_token += element * call.kv_elements;
    cost.state_bytes_per_sequence += 4 * call.state_elements;
  }
  cost.memory = estimate_memory(config, *model, stage.plan, cost.parameters.total);
  return cost;
}

std::vector<StageCost> stage_costs(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry) {
  std::vector<StageCost> costs;
  for (const Stage& stage : timeline.stages()) {
    costs.push_back(stage_cost(config, registry, stage));
    for (const Span& span : timeline.spans()) {
      if (span.stage + 1 != costs.size()) continue;
      const MemoryEstimate memory = stage_cost(config, registry, {0, 0, stage.blocks, timeline.longest_plan(span), {}}).memory;
      if (memory.total() > costs.back().memory.total()) costs.back().memory = memory;
    }
    if (costs.size() < 2) continue;
    // Old masters and moments stand on the host beside the new ones until the map is done.
    const auto& before = costs[costs.size() - 2].memory;
    auto& now = costs.back().memory;
    now.growth_peak = before.weights + before.optimizer + now.weights + now.optimizer + now.gradients;
  }
  return costs;
}

double total_flops(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry) {
  double total = 0;
  for (const Span& span : timeline.spans()) {
    Stage stage = timeline.stages().at(span.stage);
    const auto flops_under = [&](const DepthPlan& plan) {
      stage.plan = plan;
      return stage_cost(config, registry, stage).flops.train;
    };
    double flops = flops_under(span.plan);
    if (config.model.loop.repeats.sampled) {
      // A repeat more costs the same whatever stands before it.
      const double one = flops_under(span.plan.with_repeats(1)), more = flops_under(span.plan.with_repeats(2)) - one;
      flops = one + (timeline.mean_repeats(span) - 1) * more;
    }
    total += static_cast<double>(span.until_step - span.from_step) * static_cast<double>(config.batch.tokens) * flops;
  }
  return total;
}

}  // namespace meristem
