#include "models/costs.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "models/activation_memory.h"
#include "optim/optimizer.h"

namespace meristem {
namespace {

std::shared_ptr<Model> build_without_storage(const RunConfig& config, const ModelRegistry& registry, std::int64_t blocks) {
  ModelConfig model = config.model;
  model.blocks = blocks;
  ModelBuild build;
  build.placement.device = at::kMeta;
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

MemoryEstimate estimate_memory(const RunConfig& config, const Model& model, const DepthPlan& plan, std::int64_t parameters) {
  const double count = static_cast<double>(parameters), element = config.precision.compute == "bf16" ? 2 : 4;
  MemoryEstimate memory;
  memory.weights = count * (element == 2 ? 6 : 4);
  for (const auto& [name, tensor] : state_layout(model.parameter_infos(), config.optimizer)) {
    memory.optimizer += static_cast<double>(tensor.nbytes());
  }
  memory.gradients = count * 4;
  const ActivationMemory activations = activation_memory(config, model, plan);
  memory.activations = activations.peak;
  memory.loop_gradients = activations.loop_gradients;
  return memory;
}

}  // namespace

StageCost stage_cost(const RunConfig& config, const ModelRegistry& registry, const Stage& stage) {
  const auto model = build_without_storage(config, registry, stage.blocks);
  StageCost cost;
  cost.stage = stage;
  cost.parameters = count_parameters(*model, stage.plan);
  cost.flops = count_flops(*model, stage.plan, config.data.sequence_length);
  const double element = config.precision.compute == "bf16" ? 2 : 4;
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
