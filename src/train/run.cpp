#include "train/run.h"

#include <chrono>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "checkpoint/disk_space.h"
#include "config/load.h"
#include "core/file.h"
#include "core/text.h"
#include "data/loader.h"
#include "models/costs.h"
#include "ops/device.h"
#include "optim/learning_rate.h"
#include "train/batches.h"
#include "train/checkpointing.h"
#include "train/disk_need.h"
#include "train/samples.h"
#include "train/signals.h"
#include "train/telemetry.h"
#include "train/tensor_files.h"
#include "train/validation.h"

namespace meristem {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Run {
 public:
  Run(const RunConfig& config, const ModelRegistry& registry, Start start)
      : config_(config),
        registry_(registry),
        start_(std::move(start)),
        device_(pick_device()),
        stages_(growth_stages(config)),
        sequences_per_step_(config.batch.tokens / config.data.sequence_length),
        loader_(make_loader(config)),
        folder_(RunFolder::open(config, start_.new_run)),
        cut_(cut_metrics()),
        telemetry_(config, folder_, start_.checkpoint ? std::optional(start_.checkpoint->state.step) : std::nullopt, device_name(device_)),
        checkpointing_(config, folder_) {}

  ExitCode train() {
    begin();
    for (const Segment& segment : segments(config_)) {
      if (segment.until_step <= state_.step) continue;
      enter(segment);
      while (state_.step < segment.until_step) {
        one_step(segment);
        if (stop_requested() && state_.step < total_steps(config_)) return stop();
      }
    }
    return end();
  }

 private:
  MetricsCut cut_metrics() const {
    return start_.new_run ? MetricsCut{} : truncate_after(folder_.metrics(), start_.checkpoint ? start_.checkpoint->state.step : 0);
  }

  // Builds the model where the run begins and says so.
  void begin() {
    const auto environment = environment_of(config_, device_name(device_));
    write_file_durably(folder_.root() / "environment.json", nlohmann::json(environment).dump(2) + "\n");
    for (const std::string& note : start_.notes) telemetry_.note(note);
    if (start_.checkpoint) {
      load_checkpoint_state(environment);
    } else {
      stage_ = 0;
      state_.seed = config_.run.seed;
      live_ = std::make_unique<LiveModel>(config_, registry_, device_, stages_[0].blocks, true);
    }
    loader_->check_supply(total_steps(config_));
    state_.config_yaml = dump_config(config_);
    state_.config_hash = config_hash(config_);
    state_.environment = environment;
    telemetry_.note("kernels: " + ops::describe(live_->paths()));
  }

  void load_checkpoint_state(const std::map<std::string, std::string>& environment) {
    state_ = start_.checkpoint->state;
    stage_ = stage_of_step(stages_, state_.step);
    for (const Segment& segment : segments(config_)) {
      if (segment.from_step < state_.step) phase_ = segment.phase;
    }
    live_ = std::make_unique<LiveModel>(config_, registry_, device_, state_.blocks, false);
    live_->load(tensors_of(start_.checkpoint->model), tensors_of(start_.checkpoint->optimizer));
    spikes_ = SpikeDetector(state_.recent_losses, state_.recent_grad_norms);
    loader_->seek(LoaderPosition::from_json(state_.loader));
    for (const std::string& note : environment_notes(state_.environment, environment)) telemetry_.note("warning: " + note);
    telemetry_.event("resume", state_.step, {{"checkpoint", start_.checkpoint_path.string()}, {"lost_lines", cut_.lost}},
                     fmt::format("resuming after step {} from {}", state_.step, start_.checkpoint_path.string()));
    start_.checkpoint.reset();  // unmaps the files
  }

  // Grows where the segment's stage is a later one, and announces its phase.
  void enter(const Segment& segment) {
    while (stage_ < segment.stage) grow(stages_[++stage_]);
    state_.depth_plan = segment.plan.print();
    const PhaseConfig& phase = config_.phases[segment.phase];
    if (state_.step == segment.from_step && (segment.from_step == 0 || phase_ != segment.phase)) {
      telemetry_.event("phase", state_.step, {{"name", phase.name}, {"depth_plan", state_.depth_plan}},
                       config_.phases.size() > 1 ? fmt::format("step {}: phase {}", state_.step, phase.name) : "");
    }
    phase_ = segment.phase;
    flops_per_step_ = stage_cost(config_, registry_, {0, 0, live_->blocks(), segment.plan, {}}).flops.train *
                      static_cast<double>(config_.batch.tokens);
  }

  void grow(const GrowthStage& stage) {
    const double begin = seconds_now();
    const std::int64_t before = live_->blocks();
    live_ = live_->grown(stage.source_of, config_.growth->moments == "zero");
    state_.growth_history.push_back({state_.step, before, stage.blocks, config_.growth->op, stage.source_of});
    telemetry_.forget_speed();
    const double seconds = seconds_now() - begin;
    telemetry_.event("growth", state_.step,
                     {{"from_blocks", before}, {"to_blocks", stage.blocks}, {"operator", config_.growth->op},
                      {"source_of", fmt::format("{}", fmt::join(stage.source_of, " "))}, {"seconds", seconds}},
                     fmt::format("step {}: grew {} -> {} blocks ({}) in {:.2f} s", state_.step, before, stage.blocks, config_.growth->op, seconds));
  }

  void one_step(const Segment& segment) {
    const double begin = seconds_now(), waited = loader_->seconds_waited();
    const std::int64_t micro = std::min(config_.batch.micro_sequences, sequences_per_step_);
    const StepInput input{state_.step + 1, segment.plan, learning_rate(config_, state_.step + 1), sequences_per_step_ / micro, micro};
    const StepResult result = train_step(
        *live_, config_.optimizer, device_, config_.data.sources.size(), [&](std::int64_t count) { return loader_->next(count); }, input,
        spikes_);
    ++state_.step;
    state_.tokens += config_.batch.tokens;
    telemetry_.step({state_.step, state_.tokens, input.learning_rate, seconds_now() - begin, loader_->seconds_waited() - waited,
                     flops_per_step_, live_->blocks(), segment.plan.num_calls()},
                    result);
    after_step(segment);
  }

  void after_step(const Segment& segment) {
    const auto every = [&](std::int64_t period) { return period > 0 && state_.step % period == 0; };
    if (every(config_.data.validation.every) || state_.step == total_steps(config_)) {
      validate(*live_, segment);
    }
    if (every(config_.logging.sample_every) || state_.step == total_steps(config_)) {
      write_sample(*live_, segment.plan, config_, folder_, device_, state_.step);
    }
    if (checkpointing_.due(state_.step)) save();
  }

  void validate(LiveModel& live, const Segment& segment) {
    meristem::validate(live.model(), segment.plan, config_, device_, stop_requested,
                       [&](const std::string& source, double loss, std::int64_t targets) {
                         telemetry_.validation(state_.step, source, loss, targets);
                       });
  }

  void save() {
    state_.blocks = live_->blocks();
    state_.loader = loader_->position().to_json();
    state_.recent_losses = spikes_.losses();
    state_.recent_grad_norms = spikes_.grad_norms();
    const double begin = seconds_now();
    checkpointing_.save(*live_, state_);
    telemetry_.event("checkpoint", state_.step, {{"seconds", seconds_now() - begin}}, "");
  }

  ExitCode stop() {
    save();
    checkpointing_.finish();
    telemetry_.note(fmt::format("stopped by signal {} after step {}; saved. Go on with --resume auto", stop_signal(), state_.step));
    telemetry_.finish();
    return ExitCode::kInterrupted;
  }

  ExitCode end() {
    checkpointing_.finish();
    telemetry_.finish();
    const std::string trouble = draw_plots(folder_);
    if (!trouble.empty()) telemetry_.note(trouble);
    for (const SourceUse& use : loader_->use()) {
      telemetry_.note(fmt::format("source {}: {} tokens, {:.3g} epochs", use.name, grouped_digits(use.tokens), use.epochs));
    }
    telemetry_.note(fmt::format("done: {} steps, {} tokens; {}", state_.step, grouped_digits(state_.tokens), folder_.root().string()));
    return ExitCode::kOk;
  }

  const RunConfig& config_;
  const ModelRegistry& registry_;
  Start start_;
  at::Device device_;
  std::vector<GrowthStage> stages_;
  std::int64_t sequences_per_step_;
  std::unique_ptr<Loader> loader_;
  RunFolder folder_;
  MetricsCut cut_;
  Telemetry telemetry_;
  Checkpointing checkpointing_;

  TrainState state_;
  SpikeDetector spikes_;
  std::unique_ptr<LiveModel> live_;
  std::size_t stage_ = 0, phase_ = 0;
  double flops_per_step_ = 0;
};

}  // namespace

ExitCode run_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry) {
  install_stop_handlers();
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
  Start start = decide_start(config, request);
  const std::int64_t from_step = start.checkpoint ? start.checkpoint->state.step : 0;
  require_free_disk(std::filesystem::path(config.run.out) / config.run.name, checkpoint_disk_need(config, registry, from_step));
  return Run(config, registry, std::move(start)).train();
}

}  // namespace meristem
