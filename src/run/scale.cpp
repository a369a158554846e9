#include "run/scale.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/errors.h"
#include "ops/muon.h"

namespace meristem {
namespace {

std::int64_t sequences_of(const RunConfig& config) { return config.batch.tokens / config.data.sequence_length; }

// How gradients and weights of a run travel.
Exchange exchange_of(const RunConfig& config) {
  Exchange exchange;
  exchange.weight_bytes = config.precision.compute == Precision::kBf16 ? 2 : 4;
  return exchange;
}

void share_out(const StageCost& cost, bool half, std::int64_t ranks, MemoryEstimate& memory) {
  const auto n = static_cast<double>(ranks);
  const auto parameters = static_cast<double>(cost.parameters.total);
  // A matrix of Muon's has one owner.
  const double matrix = memory.update / ops::kMuonWorkspaceBytes;
  memory.optimizer = std::max(memory.optimizer / n, 4 * matrix);
  if (half) memory.weights = 2 * parameters + std::max(4 * parameters / n, 4 * matrix);
}

UpdateForecast mixed(const UpdateForecast& a, const UpdateForecast& b, double share_of_b) {
  const auto mix = [&](double x, double y) { return x + share_of_b * (y - x); };
  return {mix(a.compute, b.compute), mix(a.optimizer, b.optimizer), mix(a.exposed, b.exposed), mix(a.communication, b.communication),
          a.buckets};
}

}  // namespace

bool divides_batch(const RunConfig& config, std::int64_t ranks) { return ranks > 0 && sequences_of(config) % ranks == 0; }

RunConfig config_of_rank(const RunConfig& config, std::int64_t ranks) {
  const std::int64_t sequences = sequences_of(config);
  if (!divides_batch(config, ranks)) {
    std::int64_t fewer = std::min(ranks, sequences), more = ranks + 1;
    while (sequences % fewer != 0) --fewer;
    while (more <= sequences && sequences % more != 0) ++more;
    throw InputError(fmt::format("batch.tokens: {} tokens are {} sequences, which {} ranks cannot share evenly; {}{} can",
                                 config.batch.tokens, sequences, ranks, fewer, more <= sequences ? fmt::format(" or {}", more) : ""));
  }
  RunConfig rank = config;
  rank.batch.tokens /= ranks;
  rank.batch.micro_sequences = std::min(config.batch.micro_sequences, sequences / ranks);
  while (sequences / ranks % rank.batch.micro_sequences != 0) --rank.batch.micro_sequences;
  return rank;
}

std::vector<MemoryEstimate> memory_of_rank(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry,
                                           std::int64_t ranks) {
  std::vector<MemoryEstimate> stages;
  for (const StageCost& cost : stage_costs(config_of_rank(config, ranks), timeline, registry)) {
    MemoryEstimate memory = cost.memory;
    if (exchange_of(config).shard_optimizer) share_out(cost, config.precision.compute == Precision::kBf16, ranks, memory);
    if (!stages.empty()) {
      const MemoryEstimate& before = stages.back();
      memory.growth_peak = before.weights + before.optimizer + memory.weights + memory.optimizer + memory.gradients;
    }
    stages.push_back(memory);
  }
  return stages;
}

Cluster cluster_of(Gpu gpu) {
  constexpr double kGib = 1024.0 * 1024 * 1024;
  // NCCL between the eight GPUs of a machine: all-reduce with NVLS, reduce-scatter and all-gather in a ring.
  constexpr double kHopperAllReduce = 481e9, kHopperShards = 370e9, kA100 = 200e9;
  Cluster cluster;
  cluster.gpu = gpu;
  switch (gpu) {
    case Gpu::kH100: cluster.memory_bytes = 80 * kGib, cluster.memory_rate = 3.35e12; break;
    case Gpu::kH200: cluster.memory_bytes = 140 * kGib, cluster.memory_rate = 4.8e12; break;
    case Gpu::kA100: cluster.memory_bytes = 80 * kGib, cluster.memory_rate = 2.04e12; break;
  }
  const bool hopper = gpu != Gpu::kA100;
  cluster.links.node_all_reduce = hopper ? kHopperAllReduce : kA100;
  cluster.links.node_shards = hopper ? kHopperShards : kA100;
  return cluster;
}

RunScale::RunScale(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, const Cluster& cluster)
    : config_(config), timeline_(timeline), registry_(registry), cluster_(cluster), exchange_(exchange_of(config)) {
  hours_alone_ = hours(1, nullptr);
}

RunForecast RunScale::on(std::int64_t ranks) {
  const RunConfig rank = config_of_rank(config_, ranks);
  RunForecast forecast;
  forecast.ranks = ranks;
  forecast.sequences = sequences_of(rank);
  forecast.micro_sequences = rank.batch.micro_sequences;
  forecast.update = update(timeline_.stages().back(), ranks);
  forecast.hours = hours(ranks, &forecast.spans);
  forecast.memory = peak_memory(ranks);
  forecast.efficiency = hours_alone_ / forecast.gpu_hours();
  return forecast;
}

double RunScale::hours(std::int64_t ranks, std::vector<UpdateForecast>* spans) {
  double seconds = 0;
  for (const Span& span : timeline_.spans()) {
    const UpdateForecast one = update(span, ranks);
    seconds += static_cast<double>(span.until_step - span.from_step) * one.step();
    if (spans != nullptr) spans->push_back(one);
  }
  return seconds / 3600;
}

UpdateForecast RunScale::update(const Span& span, std::int64_t ranks) {
  Stage stage = timeline_.stages().at(span.stage);
  stage.plan = span.plan;
  if (!config_.model.loop.repeats.sampled) return update(stage, ranks);
  const double mean = timeline_.mean_repeats(span), below = std::floor(mean);
  stage.plan = span.plan.with_repeats(static_cast<std::int64_t>(below));
  const UpdateForecast fewer = update(stage, ranks);
  stage.plan = span.plan.with_repeats(static_cast<std::int64_t>(below) + 1);
  return mixed(fewer, update(stage, ranks), mean - below);
}

UpdateForecast RunScale::update(const Stage& stage, std::int64_t ranks) {
  const auto [run, fresh] = runs_.try_emplace({stage.blocks, stage.plan.calls()});
  if (fresh) run->second = update_run(config_, registry_, stage);
  return forecast_update(work_of_rank(run->second, ranks), ranks, exchange_, cluster_.links);
}

UpdateWork RunScale::work_of_rank(const UpdateRun& run, std::int64_t ranks) const {
  const RunConfig rank = config_of_rank(config_, ranks);
  UpdateWork work;
  for (const CallRun& call : run.calls) work.calls.push_back({call.forward, call.backward});
  work.head = {run.head.forward, run.head.backward};
  for (const GradientPart& part : run.gradients) work.groups.push_back({part.elements, part.complete, part.first_use, part.at_once});
  work.micro_batch_tokens = static_cast<double>(rank.batch.micro_sequences * config_.data.sequence_length);
  work.micro_batches = sequences_of(rank) / rank.batch.micro_sequences;
  if (cluster_.measured_flops > 0) {
    // Measured are the FLOPs of FlopCount::train, over whole updates.
    work.flops_per_second = cluster_.measured_flops * run.run_flops / run.train_flops;
    return work;
  }
  work.flops_per_second = cluster_.peak_flops * kAssumedUse;
  const auto seconds = [&](double bytes, double flops) {
    return bytes / (cluster_.memory_rate * kMemoryUse) + flops / work.flops_per_second;
  };
  work.optimizer_seconds = seconds(run.optimizer.bytes, run.optimizer.flops);
  work.indivisible_seconds = seconds(run.optimizer.largest_bytes, run.optimizer.largest_flops);
  return work;
}

MemoryEstimate RunScale::peak_memory(std::int64_t ranks) {
  MemoryEstimate most;
  double growth_peak = 0;
  for (const MemoryEstimate& memory : memory_of_rank(config_, timeline_, registry_, ranks)) {
    if (memory.total() > most.total()) most = memory;
    growth_peak = std::max(growth_peak, memory.growth_peak);
  }
  most.growth_peak = growth_peak;
  return most;
}

}  // namespace meristem
