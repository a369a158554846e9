// Everything a run says about itself: progress, metrics.jsonl, TensorBoard. Reads, never steers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/train_state.h"
#include "config/timeline.h"
#include "core/clock.h"
#include "data/sequence_sampler.h"
#include "metrics/jsonl.h"
#include "metrics/progress.h"
#include "metrics/tensorboard.h"
#include "metrics/throughput.h"
#include "nn/mixer.h"
#include "run/run_folder.h"
#include "step/update.h"

namespace meristem {

// How uneven the loads of experts are, and how many experts a call really uses.
struct ExpertMetrics {
  // By place in the plan ("0", "1", …): largest load / mean load, and the entropy of the choice in nats. Under "all" the calls of a block
  // count together, as they do for the balance bias: the load of the block that is worst, the mean entropy of the blocks.
  std::map<std::string, double> load, entropy;
};

// Reads the counts from the device. Empty maps where there are no experts.
ExpertMetrics expert_metrics(const nn::ExpertLoads& loads);

class Telemetry {
 public:
  // resumed_after: the step that the run goes on after, or nothing for a new one. speaks: false on all ranks but the first; then nothing is
  // written or shown.
  Telemetry(const RunConfig& config, const Timeline& timeline, const RunFolder& folder, std::optional<std::int64_t> resumed_after,
            std::string device_name, bool speaks = true);

  struct StepReport {
    std::int64_t step = 0, tokens = 0;
    double lr = 0, seconds = 0, loader_wait = 0;  // loader_wait: seconds of `seconds`
    double flops = 0;                             // of the step
    std::optional<TokenCounts> counts;            // of the whole run, this step among it
    std::int64_t blocks = 0, calls = 0;
    std::int64_t parameters = 0;        // unique ones
    std::vector<double> flops_by_call;  // forward, per token
    std::vector<SourceUse> use;         // of each source since the run's first step
    nn::ExpertLoads experts;            // of the step
  };
  // Whether update n gets a line in metrics.jsonl.
  bool logs(std::int64_t n) const;
  void step(const StepReport& report, const UpdateResult& result);
  // One event line: {"event": name, "step": step, fields…}, and a note on the console where `note` is not empty.
  // TensorBoard gets the note as a text.
  void event(const std::string& name, std::int64_t step, MetricsLine fields, const std::string& note);
  void validation(std::int64_t step, const std::string& source, double loss, std::int64_t targets);
  void note(const std::string& text);
  // After a growth the speed of earlier steps says nothing about the next ones.
  void forget_speed() { throughput_.reset(); }
  // step: where the run ends; whole: it has nothing left to do.
  void finish(std::int64_t step, bool whole);

 private:
  MetricsLine step_line(const StepReport& report, const UpdateResult& result, const ProcessMemory& memory) const;
  void show(const StepReport& report, const UpdateResult& result);
  void draw(const StepReport& report, const UpdateResult& result, const ProcessMemory& memory);
  void add_by_source(const UpdateResult& result);
  void add_rank_metrics(MetricsLine& line) const;
  // Nats per target of each source since the last log line; sources without a target are not there.
  std::map<std::string, double> loss_by_source() const;

  const RunConfig& config_;
  std::int64_t updates_;  // of the run
  std::string device_name_;
  std::unique_ptr<MetricsLog> log_;  // these three where it speaks
  std::unique_ptr<EventWriter> tensorboard_;
  std::unique_ptr<Progress> progress_;
  Throughput throughput_;
  // Since the last log line: a source of small weight is not in every step.
  double waited_ = 0, timed_ = 0, waited_for_ranks_ = 0;
  std::vector<double> seconds_by_rank_;
  std::vector<double> source_losses_;  // sums of nats
  std::vector<std::int64_t> source_targets_;
  nn::ExpertLoads expert_loads_;  // an update's own hang on which few sequences it read
  std::int64_t expert_blocks_ = 0;
};

}  // namespace meristem
