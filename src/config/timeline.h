// When what happens in a run: its stages, phases and spans, and the plan and learning rate of every update. Worked out once from a config;
// whoever wants to know asks it. An update n is counted from 1; "after step s" is after update s.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace meristem {

// Updates of an amount under this config's batch: tokens are divided by batch.tokens and rounded to the nearest update.
std::int64_t updates_of(const Amount& amount, const RunConfig& config);

// The learning rate as a pure function of the update: nothing to save, nothing to restore wrongly. Three pieces, which end with update W, D
// and S: peak min(1, n/W), then the peak, then peak (1 - sqrt((n-D-1)/(S-D))) for one_minus_sqrt, or the linear, cosine form of the same
// fraction. With growth.rewarm_steps = K, the K updates after a growth at T scale by (n-T)/K.
struct LearningRate {
  LearningRate() = default;
  // Without the growths, which the timeline adds.
  explicit LearningRate(const RunConfig& config);

  double at(std::int64_t n) const;
  // Last update of each piece: checkpoints at them are always written and never rotated.
  std::vector<std::int64_t> piece_ends() const;

  double peak = 0;
  std::int64_t warmup_end = 0, decay_from = 0, end = 0;  // W, D, S; D = S where nothing decays
  DecayKind decay = DecayKind::kNone;
  std::int64_t rewarm = 0;
  std::vector<std::int64_t> growths;
};

// Updates (from_step, until_step] between two growths.
struct Stage {
  std::int64_t from_step = 0, until_step = 0, blocks = 0;
  DepthPlan plan;                       // at the stage's end, phases aside; the loop's count as written where it is drawn
  std::vector<std::int64_t> source_of;  // the map that made this stage from the one before; empty for the first
};

// A maximal interval of updates (from_step, until_step] in which stage, phase and plan stay the same.
struct Span {
  std::int64_t from_step = 0, until_step = 0;
  std::size_t stage = 0, phase = 0;
  DepthPlan plan;  // the phase's own plan where it has one, else the stage's; the loop's count as written where it is drawn
};

class Timeline {
 public:
  // Takes a config whose defaults are resolved. InputError "key.path: …" where growth never reaches model.blocks, falls on no update of its
  // own, or a plan cannot be repeated as model.loop says.
  explicit Timeline(const RunConfig& config);

  // How many there are; the last is number updates().
  std::int64_t updates() const { return rate_.end; }
  double learning_rate(std::int64_t n) const { return rate_.at(n); }
  const LearningRate& rate() const { return rate_; }

  // The first with from_step 0, the last until updates(). One stage where growth is off.
  const std::vector<Stage>& stages() const { return stages_; }
  const std::vector<Span>& spans() const { return spans_; }
  // The update after which each of config.phases begins.
  const std::vector<std::int64_t>& phase_starts() const { return phase_starts_; }
  // Index of the stage whose model a checkpoint after update `step` holds.
  std::size_t stage_after(std::int64_t step) const;

  // The plan of update n of a span: the span's, with the repeats that are drawn for n where model.loop.repeats is sampled.
  DepthPlan plan_of_update(const Span& span, std::int64_t n) const;
  // The longest plan that plan_of_update can return.
  DepthPlan longest_plan(const Span& span) const;
  // Of the repeats that are drawn for the span's updates. Beyond a million updates the first million stand for all.
  double mean_repeats(const Span& span) const;
  // The calls of the longest plan of the run.
  std::int64_t most_calls() const;

 private:
  void lay_out_stages(const RunConfig& config);
  void lay_out_spans(const RunConfig& config);
  std::int64_t repeats_of_update(std::int64_t n) const;

  LearningRate rate_;
  std::vector<Stage> stages_;
  std::vector<Span> spans_;
  std::vector<std::int64_t> phase_starts_;
  std::optional<RepeatDistribution> sampled_;
  std::uint64_t seed_;
};

}  // namespace meristem
