// A run under way: its model, data, state and folder, and what happens to them from span to span and from step to step.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/errors.h"
#include "data/loader.h"
#include "metrics/jsonl.h"
#include "models/costs.h"
#include "run/checkpointing.h"
#include "run/run.h"
#include "run/run_folder.h"
#include "run/start.h"
#include "run/stopping.h"
#include "run/telemetry.h"
#include "step/live_model.h"
#include "step/update.h"

namespace meristem {

class Training {
 public:
  // All that the start can fail on stands before the run folder is touched.
  Training(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, Start start, const RunParts& parts,
           std::shared_ptr<Ranks> ranks, at::Device device);

  // To schedule.steps: kOk; or kInterrupted after a stop request was honoured with a checkpoint. Where this rank fails alone, the others
  // hear of it before anything here is taken down.
  ExitCode train();

 private:
  // Beginning and end, and what lies between spans.
  std::optional<std::int64_t> resumed_after() const { return start_.checkpoint ? std::optional(state_.step) : std::nullopt; }
  MetricsCut cut_metrics() const;
  std::unique_ptr<LiveModel> starting_model();
  std::unique_ptr<LiveModel> load_checkpoint_state();
  RunFolder open_folder();
  ExitCode train_spans();
  void begin();
  void say_packing(bool event);
  void enter(const Span& span);
  void grow(const Stage& stage);
  ExitCode stop();
  ExitCode end_early(const Span& span);
  ExitCode end();

  // An update, and what follows it.
  const StageCost& cost_under(const DepthPlan& plan);
  bool one_update(const Span& span);
  bool after_update(const Span& span);
  bool now(std::int64_t period) const { return (period > 0 && state_.step % period == 0) || state_.step == timeline_.updates(); }
  bool validation_due() const { return !config_.data.validation.sources.empty() && now(config_.data.validation.every); }
  bool validate(const Span& span);
  void sample(const Span& span);
  void save();
  void report(const std::vector<UpdateResult>& results);
  void settle() { report(updater_->finish()); }
  std::unique_ptr<Updater> make_updater();
  bool stop_asked() const { return live_->ranks().several() ? some_rank_stops_ : stop_requested(); }

  const RunConfig& config_;
  const Timeline& timeline_;
  const ModelRegistry& registry_;
  Start start_;
  std::shared_ptr<Ranks> ranks_;
  at::Device device_;
  std::int64_t sequences_per_step_;  // of all ranks
  MicroBatches micro_;               // of this one
  std::unique_ptr<Loader> loader_;
  std::map<std::string, std::string> environment_;

  TrainState state_;
  SpikeDetector spikes_;
  bool improved_ = false;  // the last validation is the best so far
  std::size_t stage_ = 0, phase_ = 0;
  std::unique_ptr<LiveModel> live_;
  std::unique_ptr<Updater> updater_;  // of live_

  std::unique_ptr<RunFolder::Lock> lock_;  // the first rank's
  RunFolder folder_;
  MetricsCut cut_;
  Telemetry telemetry_;
  Checkpointing checkpointing_;

  bool some_rank_stops_ = false;                                      // as all ranks agree
  bool owes_validation_ = false;                                      // of the step resumed from: a stop request had cut it short
  std::map<std::pair<std::int64_t, std::int64_t>, StageCost> costs_;  // by blocks and calls
  std::vector<Telemetry::StepReport> unreported_;                     // of updates whose results are still on the device
  double unreported_since_ = 0;                                       // seconds
};

}  // namespace meristem
