#include "models/costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {
namespace {

constexpr std::int64_t kInnerStep = 8;
constexpr std::int64_t kWidestInner = 8;  // times the original's
constexpr double kAlikePercent = 0.01;    // as differences are printed
constexpr const char* kLayeredMoe = "layered_moe";

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

 private:
  double shared_;
  double flops_rest_, flops_width_, flops_count_;
  double parameters_rest_, parameters_width_, parameters_count_;
};

struct Candidate {
  ExpertShape shape{};
  double worst = std::numeric_limits<double>::infinity();  // percent
  double coarser = 0;                                      // |log(f'/f)|: how far the experts' size is from the original's

  // The granularity of experts is an effect of its own: of those that print alike the nearest in size.
  bool better_than(const Candidate& other) const {
    const auto printed = [](double percent) { return std::round(percent / kAlikePercent); };
    return std::tuple(printed(worst), coarser, worst) < std::tuple(printed(other.worst), other.coarser, other.worst);
  }
};

// The best of all shapes with up to `most_inner`: E' and k' whole, E' >= 2 k', f' in steps of 8. For one f' and k' both differences are
// linear in E', so the larger one is least where one of them is nothing, where they are equal but for their signs, or at E' = 2 k'.
Candidate search(const ExpertCosts& costs, const StageCost& wanted, std::int64_t inner_of_original, std::int64_t most_inner) {
  const auto differences = [&](const ExpertShape& shape) {
    return std::pair(percent(costs.flops(shape), wanted.flops.forward),
                     percent(costs.parameters(shape), static_cast<double>(wanted.parameters.total)));
  };
  Candidate best;
  const auto offer = [&](const ExpertShape& shape) {
    const auto [flops, parameters] = differences(shape);
    const double size = static_cast<double>(shape.inner) / static_cast<double>(inner_of_original);
    const Candidate candidate{shape, std::max(std::abs(flops), std::abs(parameters)), std::abs(std::log(size))};
    if (candidate.better_than(best)) best = candidate;
  };
  for (std::int64_t inner = kInnerStep; inner <= most_inner; inner += kInnerStep) {
    for (std::int64_t active = 1;; ++active) {
      const std::int64_t least = 2 * active;
      const auto [flops, parameters] = differences({least, active, inner});
      if (std::max(flops, parameters) > best.worst + kAlikePercent) break;  // more only goes further away
      const auto [more_flops, more_parameters] = differences({least + 1, active, inner});
      const double by_flops = more_flops - flops, by_parameters = more_parameters - parameters;
      for (const auto& [at, slope] :
           {std::pair{flops, by_flops}, std::pair{parameters, by_parameters}, std::pair{flops - parameters, by_flops - by_parameters},
            std::pair{flops + parameters, by_flops + by_parameters}}) {
        const double more = slope == 0 ? 0 : std::clamp(-at / slope, 0.0, 1e9);
        offer({least + static_cast<std::int64_t>(more), active, inner});
        offer({least + static_cast<std::int64_t>(more) + 1, active, inner});
      }
      offer({least, active, inner});
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

// Where a layered mixture has no room for its private experts, why: of a cycle of m blocks in R calls it needs
// m E/R > k + (4 d / 3 f) (2 - 2 m/R). Nothing where it has.
std::string no_room(const RunConfig& config) {
  const FeedForwardConfig& ff = config.model.feed_forward;
  const double share = static_cast<double>(config.model.blocks) / static_cast<double>(config.model.depth_plan.plan.num_calls());
  const double extra = 4.0 * static_cast<double>(config.model.width) / (3.0 * static_cast<double>(ff.inner));
  const double found = share * static_cast<double>(ff.count), needed = static_cast<double>(ff.active) + extra * (2 - 2 * share);
  if (found > needed) return "";
  const char* m = config.model.blocks == 1 ? "" : "m ";
  return fmt::format("; a match needs {0}E/R > k + (4d/3f)(2 - 2{1}/R), and here {0}E/R = {2:.4g}, the right side {3:.4g}", m,
                     config.model.blocks == 1 ? "" : " m", found, needed);
}

[[noreturn]] void refuse_match(const RunConfig& config, const std::string& name, std::optional<double> nearest) {
  throw InputError(fmt::format("model.feed_forward: no {} comes within {} % of this model{}{}", name, kMatchPercent,
                               nearest ? fmt::format(" (nearest {:.2f} %)", *nearest) : "", name == kLayeredMoe ? no_room(config) : ""));
}

MatchedBaseline matched_experts(const char* name, const RunConfig& start, const RunConfig& config, const StageCost& original,
                                const ModelRegistry& registry) {
  const std::int64_t inner = config.model.feed_forward.inner;
  const Candidate best = search(ExpertCosts(start, registry), original, inner, kWidestInner * inner + kInnerStep);
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
  match.baselines.push_back(matched_experts(kLayeredMoe, layered(still), still, match.original, registry));
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
