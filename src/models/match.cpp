#include "models/costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

constexpr std::int64_t kInnerStep = 8;
constexpr double kClosePercent = 0.3;  // as near as anybody needs

StageCost cost_at_full_depth(const RunConfig& config, const ModelRegistry& registry) {
  return stage_cost(config, registry, {0, 0, config.model.blocks, config.model.depth_plan.plan, {}});
}

double percent(double value, double of) { return 100 * (value / of - 1); }

struct ExpertShape {
  std::int64_t count, active, inner;
};

RunConfig with_experts(RunConfig config, const ExpertShape& shape) {
  config.model.feed_forward.count = shape.count;
  config.model.feed_forward.active = shape.active;
  config.model.feed_forward.inner = shape.inner;
  return config;
}

// What a model of experts costs is linear in k f, E f and E, whatever else it holds. So four built models tell all others:
// flops = flops_rest + flops_width (k + shared) f + flops_count E, and parameters alike with (E + shared) f.
class ExpertCosts {
 public:
  ExpertCosts(const RunConfig& config, const ModelRegistry& registry) : shared_(static_cast<double>(config.model.feed_forward.shared)) {
    const auto at = [&](std::int64_t count, std::int64_t active, std::int64_t inner) {
      return cost_at_full_depth(with_experts(config, {count, active, inner}), registry);
    };
    const StageCost base = at(2, 1, 8), wider = at(2, 1, 16), more = at(3, 1, 8);
    flops_width_ = (wider.flops.forward - base.flops.forward) / (8 * (1 + shared_));
    flops_count_ = more.flops.forward - base.flops.forward;
    flops_rest_ = base.flops.forward - flops_width_ * 8 * (1 + shared_) - flops_count_ * 2;
    const auto count_of = [](const StageCost& cost) { return static_cast<double>(cost.parameters.total); };
    parameters_width_ = (count_of(wider) - count_of(base)) / (8 * (2 + shared_));
    parameters_count_ = count_of(more) - count_of(base) - parameters_width_ * 8;
    parameters_rest_ = count_of(base) - parameters_width_ * 8 * (2 + shared_) - parameters_count_ * 2;
  }

  double flops(const ExpertShape& s) const {
    return flops_rest_ + flops_width_ * (static_cast<double>(s.active) + shared_) * static_cast<double>(s.inner) +
           flops_count_ * static_cast<double>(s.count);
  }
  double parameters(const ExpertShape& s) const {
    const double count = static_cast<double>(s.count);
    return parameters_rest_ + parameters_width_ * (count + shared_) * static_cast<double>(s.inner) + parameters_count_ * count;
  }
  // Real-valued E with the parameters wanted, and then k with the FLOPs wanted.
  double count_for(double parameters, double inner) const {
    return (parameters - parameters_rest_ - parameters_width_ * shared_ * inner) / (parameters_width_ * inner + parameters_count_);
  }
  double active_for(double flops, double inner, double count) const {
    return (flops - flops_rest_ - flops_count_ * count) / (flops_width_ * inner) - shared_;
  }

 private:
  double shared_;
  double flops_rest_, flops_width_, flops_count_;
  double parameters_rest_, parameters_width_, parameters_count_;
};

struct Candidate {
  ExpertShape shape{};
  double worst = std::numeric_limits<double>::infinity();  // percent
  double coarser = 0;                                      // |log(f'/f)|: how far the experts' size is from the original's

  // The granularity of experts is an effect of its own: of the close ones the nearest in size, else the closest.
  bool better_than(const Candidate& other) const {
    const bool close = worst <= kClosePercent, other_close = other.worst <= kClosePercent;
    if (close && other_close) return std::pair(coarser, worst) < std::pair(other.coarser, other.worst);
    return worst < other.worst;
  }
};

// The whole numbers around what the two equations say, for every inner width up to 8 times the original's.
Candidate search(const ExpertCosts& costs, const StageCost& wanted, std::int64_t inner_of_original) {
  const double flops = wanted.flops.forward, parameters = static_cast<double>(wanted.parameters.total);
  Candidate best;
  for (std::int64_t inner = kInnerStep; inner <= 8 * inner_of_original + kInnerStep; inner += kInnerStep) {
    const double count_real = costs.count_for(parameters, static_cast<double>(inner));
    if (!(count_real >= 1)) continue;
    for (const double count : {std::floor(count_real), std::ceil(count_real)}) {
      const double active_real = costs.active_for(flops, static_cast<double>(inner), count);
      for (const double active : {std::floor(active_real), std::ceil(active_real)}) {
        const ExpertShape shape{static_cast<std::int64_t>(count), static_cast<std::int64_t>(active), inner};
        if (active < 1 || shape.count < 2 * shape.active) continue;
        const double worst = std::max(std::abs(percent(costs.flops(shape), flops)), std::abs(percent(costs.parameters(shape), parameters)));
        const Candidate candidate{shape, worst, std::abs(std::log(static_cast<double>(inner) / static_cast<double>(inner_of_original)))};
        if (candidate.better_than(best)) best = candidate;
      }
    }
  }
  return best;
}

RunConfig without_changes_over_time(RunConfig config) {
  config.growth.reset();
  for (PhaseConfig& phase : config.phases) phase.depth_plan = {};
  return config;
}

RunConfig layered(RunConfig config) {
  const std::int64_t calls = config.model.depth_plan.plan.num_calls();
  config.model.architecture = "decoder";
  config.model.depth_attention.reset();
  config.model.blocks = calls;
  config.model.depth_plan = DepthPlan::plain(calls).print();
  return config;
}

RunConfig dense(RunConfig config, std::int64_t inner) {
  config.model.feed_forward = {};
  config.model.feed_forward.inner = inner;
  return config;
}

MatchedBaseline counted(const char* name, const RunConfig& config, const StageCost& original, const ModelRegistry& registry) {
  MatchedBaseline baseline{name, config, cost_at_full_depth(config, registry)};
  baseline.flops_percent = percent(baseline.cost.flops.forward, original.flops.forward);
  baseline.parameters_percent =
      percent(static_cast<double>(baseline.cost.parameters.total), static_cast<double>(original.parameters.total));
  baseline.kv_percent = percent(baseline.cost.kv_bytes_per_token, original.kv_bytes_per_token);
  return baseline;
}

[[noreturn]] void refuse_match(const RunConfig& config, const char* name, std::optional<double> nearest) {
  const FeedForwardConfig& ff = config.model.feed_forward;
  const double calls = static_cast<double>(config.model.depth_plan.plan.num_calls());
  const double extra = 4.0 * static_cast<double>(config.model.width) / (3.0 * static_cast<double>(ff.inner));
  throw InputError(
      fmt::format("model.feed_forward: no {} comes within {} % of this model{}; a match needs E/R > k + (4d/3f)(2 - 2/R), and here E/R = "
                  "{:.4g}, the right side {:.4g}",
                  name, kMatchPercent, nearest ? fmt::format(" (nearest {:.2f} %)", *nearest) : "", static_cast<double>(ff.count) / calls,
                  static_cast<double>(ff.active) + extra * (2 - 2 / calls)));
}

MatchedBaseline matched_experts(const char* name, const RunConfig& start, const RunConfig& config, const StageCost& original,
                                const ModelRegistry& registry) {
  const Candidate best = search(ExpertCosts(start, registry), original, config.model.feed_forward.inner);
  if (!std::isfinite(best.worst)) refuse_match(config, name, std::nullopt);
  MatchedBaseline baseline = counted(name, with_experts(start, best.shape), original, registry);
  if (baseline.worst_percent() > kMatchPercent) refuse_match(config, name, baseline.worst_percent());
  return baseline;
}

MatchedBaseline matched_dense(const RunConfig& config, const StageCost& original, const ModelRegistry& registry) {
  const auto flops_at = [&](std::int64_t inner) { return cost_at_full_depth(dense(layered(config), inner), registry).flops.forward; };
  const double one = flops_at(kInnerStep), two = flops_at(2 * kInnerStep);
  const auto steps = static_cast<std::int64_t>(std::llround((original.flops.forward - one) / (two - one))) + 1;
  const char* name = "layered_dense";
  if (steps < 1) refuse_match(config, name, std::nullopt);
  MatchedBaseline baseline = counted(name, dense(layered(config), steps * kInnerStep), original, registry);
  baseline.parameters_must_match = false;
  if (baseline.worst_percent() > kMatchPercent) refuse_match(config, name, baseline.worst_percent());
  return baseline;
}

}  // namespace

double MatchedBaseline::worst_percent() const {
  return std::max({std::abs(flops_percent), std::abs(kv_percent), parameters_must_match ? std::abs(parameters_percent) : 0.0});
}

Match match_baselines(const RunConfig& config, const ModelRegistry& registry) {
  const ModelConfig& model = config.model;
  if (model.feed_forward.kind != FeedForwardKind::kExperts)
    throw InputError(fmt::format("model.feed_forward.kind: found {}; --match needs experts", word_of(model.feed_forward.kind)));
  if (!model.depth_attention)
    throw InputError("model.depth_attention: found null; --match compares a model that has it with those that have not");
  const RunConfig still = without_changes_over_time(config);
  Match match{cost_at_full_depth(still, registry), {}};
  RunConfig without_depth_attention = still;
  without_depth_attention.model.depth_attention.reset();
  match.baselines.push_back(matched_experts("layered_moe", layered(still), still, match.original, registry));
  match.baselines.push_back(matched_experts("recurrent_without_depth_attention", without_depth_attention, still, match.original, registry));
  match.baselines.push_back(matched_dense(still, match.original, registry));
  return match;
}

std::vector<std::string> overrides_of(const MatchedBaseline& baseline) {
  const ModelConfig& model = baseline.config.model;
  const FeedForwardConfig& ff = model.feed_forward;
  std::vector<std::string> words{"model.architecture=" + model.architecture, fmt::format("model.blocks={}", model.blocks),
                                 fmt::format("model.depth_plan=\"{}\"", model.depth_plan.text), "model.depth_attention=null"};
  if (ff.kind == FeedForwardKind::kExperts) {
    words.push_back(fmt::format("model.feed_forward.count={}", ff.count));
    words.push_back(fmt::format("model.feed_forward.active={}", ff.active));
    words.push_back(fmt::format("model.feed_forward.inner={}", ff.inner));
  } else {
    words.push_back(fmt::format("model.feed_forward={{kind: {}, inner: {}}}", word_of(ff.kind), ff.inner));
  }
  return words;
}

}  // namespace meristem
