#include "run/scale.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "optim/buckets.h"
#include "optim/optimizer.h"
#include "run/start.h"

namespace meristem {
namespace {

std::int64_t sequences_of(const RunConfig& config) { return config.batch.tokens / config.data.sequence_length; }

// What of the flat buffers each rank updates, as seconds or bytes: `of_element` says them of an element of an entry.
template <class OfElement>
std::vector<double> owned_by_rank(const FlatLayout& layout, const std::vector<FlatBucket>& buckets, std::int64_t ranks,
                                  const OfElement& of_element) {
  std::vector<double> owned(static_cast<std::size_t>(ranks));
  for (const FlatBucket& bucket : buckets) {
    for (const FlatPiece& piece : bucket.pieces) {
      // AdamW is the same for all entries; a piece of Muon's lies inside of one.
      const auto holds = [&](const FlatEntry& entry) { return piece.offset < entry.offset + entry.count; };
      const auto entry = std::find_if(layout.entries.begin(), layout.entries.end() - 1, holds);
      owned[static_cast<std::size_t>(piece.owner)] += static_cast<double>(piece.count) * of_element(*entry, bucket.rule);
    }
  }
  return owned;
}

struct Shards {
  FlatLayout layout;
  std::vector<FlatBucket> buckets;
};

Shards shards_of(const UpdateRun& run, const RunConfig& config, std::int64_t ranks) {
  Shards shards{flat_layout(run.parameters, config.optimizer, static_cast<int>(ranks)), {}};
  shards.buckets = buckets_of(shards.layout, static_cast<int>(ranks), config.parallel.bucket_mb);
  return shards;
}

// Complete when the last of its parameters is, used when the first of them is.
GradientBucket bucket_of(const FlatBucket& flat, const FlatLayout& layout, const UpdateRun& run) {
  GradientBucket bucket{static_cast<double>(flat.count), std::ssize(run.calls), 0, std::ssize(run.calls)};
  for (const std::size_t e : flat.entries) {
    const ParameterUse& use = run.uses.at(layout.entries[e].place);
    bucket.first_use = std::min(bucket.first_use, use.first_use);
    if (use.complete_in > bucket.complete_in) continue;
    bucket.share = use.complete_in < bucket.complete_in ? use.share : std::max(bucket.share, use.share);
    bucket.complete_in = use.complete_in;
  }
  return bucket;
}

UpdateForecast mixed(const UpdateForecast& a, const UpdateForecast& b, double share_of_b) {
  const auto mix = [&](double x, double y) { return x + share_of_b * (y - x); };
  return {mix(a.compute, b.compute), mix(a.optimizer, b.optimizer), mix(a.exposed, b.exposed), mix(a.communication, b.communication)};
}

}  // namespace

bool divides_batch(const RunConfig& config, std::int64_t ranks) { return ranks > 0 && sequences_of(config) % ranks == 0; }

RunConfig config_of_rank(const RunConfig& config, std::int64_t ranks) {
  RunConfig rank = config;
  rank.batch.micro_sequences = micro_batches_of(config, static_cast<int>(ranks)).sequences;
  rank.batch.tokens /= ranks;
  if (ranks > 1) rank.parallel.threads = ThreadWork::kOperators;  // as in Updater::strands_for
  return rank;
}

std::vector<MemoryEstimate> memory_of_rank(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry,
                                           std::int64_t ranks) {
  std::vector<MemoryEstimate> stages;
  for (const StageCost& cost : stage_costs(config_of_rank(config, ranks), timeline, registry)) {
    MemoryEstimate memory = cost.memory;
    if (config.parallel.shard_optimizer && ranks > 1) {
      constexpr double kMoment = 4;
      const auto [layout, buckets] = shards_of(update_run(config, registry, cost.stage), config, ranks);
      const std::vector<double> kept = owned_by_rank(
          layout, buckets, ranks, [](const FlatEntry&, UpdateRule rule) { return rule == UpdateRule::kMuon ? kMoment : 2 * kMoment; });
      memory.optimizer = *std::max_element(kept.begin(), kept.end());
      if (config.precision.compute == Precision::kBf16) {
        // Masters too are their owner's, but for those that every rank reads.
        constexpr double kMaster = 4;
        const std::vector<double> own = owned_by_rank(layout, buckets, ranks, [](const FlatEntry&, UpdateRule) { return kMaster; });
        double read_by_all = 0;
        for (const FlatEntry& entry : layout.entries) read_by_all += entry.stays_fp32 ? kMaster * static_cast<double>(entry.count) : 0;
        memory.weights += *std::max_element(own.begin(), own.end()) + read_by_all - std::accumulate(own.begin(), own.end(), 0.0);
      }
    }
    // A bf16 copy of all gradients, on their way when activations are gone.
    if (config.parallel.reduce == Wire::kBf16 && ranks > 1) memory.update = std::max(memory.update, memory.gradients / 2);
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
  constexpr double kSocketStart = 100e-6, kSocketHop = 50e-6;
  Cluster cluster;
  cluster.gpu = gpu;
  switch (gpu) {
    case Gpu::kH100: cluster.memory_bytes = 80 * kGib, cluster.memory_rate = 3.35e12; break;
    case Gpu::kH200: cluster.memory_bytes = 140 * kGib, cluster.memory_rate = 4.8e12; break;
    case Gpu::kA100: cluster.memory_bytes = 80 * kGib, cluster.memory_rate = 2.04e12; break;
    case Gpu::kCpu: cluster.links = {1, 0, 0, 0, kSocketStart, kSocketHop, kSocketHop}; return cluster;
  }
  const bool hopper = gpu != Gpu::kA100;
  cluster.links.node_all_reduce = hopper ? kHopperAllReduce : kA100;
  cluster.links.node_shards = hopper ? kHopperShards : kA100;
  return cluster;
}

RunScale::RunScale(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, const Cluster& cluster)
    : config_(config), timeline_(timeline), registry_(registry), cluster_(cluster) {
  const double half = 2, full = 4;
  exchange_ = {config.parallel.shard_optimizer, cluster.gpu != Gpu::kCpu, config.parallel.reduce == Wire::kBf16 ? half : full,
               config.precision.compute == Precision::kBf16 ? half : full};
  hours_alone_ = hours(1, nullptr);
}

RunForecast RunScale::on(std::int64_t ranks) {
  const RunConfig rank = config_of_rank(config_, ranks);
  RunForecast forecast;
  forecast.ranks = ranks;
  forecast.sequences = sequences_of(rank);
  forecast.micro_sequences = rank.batch.micro_sequences;
  forecast.buckets = std::ssize(shards_of(run_of(timeline_.stages().back()), config_, ranks).buckets);
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
  return forecast_update(work_of_rank(run_of(stage), ranks), ranks, exchange_, cluster_.links);
}

const UpdateRun& RunScale::run_of(const Stage& stage) {
  const auto [run, fresh] = runs_.try_emplace({stage.blocks, stage.plan.calls()});
  if (fresh) run->second = update_run(config_, registry_, stage);
  return run->second;
}

UpdateWork RunScale::work_of_rank(const UpdateRun& run, std::int64_t ranks) const {
  const RunConfig rank = config_of_rank(config_, ranks);
  const auto [layout, buckets] = shards_of(run, config_, ranks);
  UpdateWork work;
  for (const CallRun& call : run.calls) work.calls.push_back({call.forward, call.backward});
  work.head = {run.head.forward, run.head.backward};
  for (const FlatBucket& bucket : buckets) work.buckets.push_back(bucket_of(bucket, layout, run));
  work.micro_batch_tokens = static_cast<double>(rank.batch.micro_sequences * config_.data.sequence_length);
  work.micro_batches = sequences_of(rank) / rank.batch.micro_sequences;
  if (cluster_.measured_flops > 0) {
    // Measured are the FLOPs of FlopCount::train, over whole updates.
    work.flops_per_second = cluster_.measured_flops * run.run_flops / run.train_flops;
    return work;
  }
  work.flops_per_second = cluster_.peak_flops * kAssumedUse;
  const std::vector<double> seconds = owned_by_rank(layout, buckets, ranks, [&](const FlatEntry& entry, UpdateRule rule) {
    const ElementWork element = update_work(entry, rule, config_.optimizer, config_.precision.compute == Precision::kBf16);
    return element.bytes / (cluster_.memory_rate * kMemoryUse) + element.flops / work.flops_per_second;
  });
  work.optimizer_seconds =
      exchange_.sharded ? *std::max_element(seconds.begin(), seconds.end()) : std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return work;
}

MemoryEstimate RunScale::peak_memory(std::int64_t ranks) {
  MemoryEstimate most;
  double growth_peak = 0;
  for (MemoryEstimate memory : memory_of_rank(config_, timeline_, registry_, ranks)) {
    if (cluster_.gpu != Gpu::kCpu) memory.strand_gradients = 0;
    if (memory.total() > most.total()) most = memory;
    growth_peak = std::max(growth_peak, memory.growth_peak);
  }
  most.growth_peak = growth_peak;
  return most;
}

}  // namespace meristem
