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
#include "train/run_folder.h"
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
        environment_(environment_of(config, device_name(device_))),
        live_(starting_model()),
        folder_(RunFolder::open(config, start_.new_run)),
        cut_(cut_metrics()),
        telemetry_(config, folder_, resumed_after(), device_name(device_)),
        checkpointing_(config, folder_, resumed_after()) {}

  ExitCode train() {
    begin();
    for (const Segment& segment : segments(config_)) {
      if (owes_validation_ && segment.from_step < state_.step && state_.step <= segment.until_step && !validate(segment)) return stop();
      if (segment.until_step <= state_.step) continue;
      enter(segment);
      while (state_.step < segment.until_step) {
        const bool whole = one_step(segment);
        if (stop_requested() && (!whole || state_.step < total_steps(config_))) return stop();
      }
    }
    return end();
  }

 private:
  std::optional<std::int64_t> resumed_after() const { return start_.checkpoint ? std::optional(state_.step) : std::nullopt; }

  MetricsCut cut_metrics() const {
    return start_.new_run ? MetricsCut{} : truncate_after(folder_.metrics(), resumed_after().value_or(-1));
  }

  // All that the start can fail on stands before the run folder is touched.
  std::unique_ptr<LiveModel> starting_model() {
    state_.seed = config_.run.seed;
    auto live = start_.checkpoint ? load_checkpoint_state() : std::make_unique<LiveModel>(config_, registry_, device_, stages_[0].blocks, true);
    loader_->check_supply(total_steps(config_));
    state_.config_yaml = dump_config(config_);
    state_.config_hash = config_hash(config_);
    return live;
  }

  void begin() {
    write_file_durably(folder_.root() / "environment.json", nlohmann::json(environment_).dump(2) + "\n");
    for (const std::string& note : start_.notes) telemetry_.note(note);
    if (start_.checkpoint) {
      for (const std::string& note : environment_notes(state_.environment, environment_)) telemetry_.note("warning: " + note);
      owes_validation_ = !start_.new_run && validation_due() && !has_event(folder_.metrics(), "validation", state_.step);
      telemetry_.event("resume", state_.step, {{"checkpoint", start_.checkpoint_path.string()}, {"lost_lines", cut_.lost}},
                       fmt::format("resuming after step {} from {}", state_.step, start_.checkpoint_path.string()));
      start_.checkpoint.reset();  // unmaps the files
    }
    state_.environment = environment_;
    telemetry_.note("kernels: " + ops::describe(live_->paths()));
  }

  std::unique_ptr<LiveModel> load_checkpoint_state() {
    state_ = start_.checkpoint->state;
    stage_ = stage_of_step(stages_, state_.step);
    for (const Segment& segment : segments(config_)) {
      if (segment.from_step < state_.step) phase_ = segment.phase;
    }
    auto live = std::make_unique<LiveModel>(config_, registry_, device_, state_.blocks, false);
    live->load(tensors_of(start_.checkpoint->model), tensors_of(start_.checkpoint->optimizer));
    spikes_ = SpikeDetector(state_.recent_losses, state_.recent_grad_norms);
#ifndef MERISTEM_PLANT_DROP_POSITION  // Only in a test that must fail: the loader begins anew.
    loader_->seek(LoaderPosition::from_json(state_.loader));
#endif
    return live;
  }

  // Grows where the segment's stage is a later one, and announces its phase.
  void enter(const Segment& segment) {
    while (stage_ < segment.stage) grow(stages_[++stage_]);
    state_.depth_plan = plan_text(config_, segment.plan);
    const PhaseConfig& phase = config_.phases[segment.phase];
    if (state_.step == segment.from_step && (segment.from_step == 0 || phase_ != segment.phase)) {
      telemetry_.event("phase", state_.step, {{"name", phase.name}, {"depth_plan", state_.depth_plan}},
                       config_.phases.size() > 1 ? fmt::format("step {}: phase {}", state_.step, phase.name) : "");
    }
    phase_ = segment.phase;
  }

  // Costs of the model as it is under a plan; counted once for each plan.
  const StageCost& cost_under(const DepthPlan& plan) {
    const auto [found, fresh] = costs_.try_emplace({live_->blocks(), plan.num_calls()});
    if (fresh || found->second.stage.plan != plan) found->second = stage_cost(config_, registry_, {0, 0, live_->blocks(), plan, {}});
    return found->second;
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

  // False where a stop request cut its validation short.
  bool one_step(const Segment& segment) {
    const std::int64_t micro = std::min(config_.batch.micro_sequences, sequences_per_step_);
    const DepthPlan plan = plan_of_step(config_, segment, state_.step + 1);
    const StageCost& cost = cost_under(plan);
    const double begin = seconds_now(), waited = loader_->seconds_waited();
    const StepInput input{state_.step + 1,   plan, learning_rate(config_, state_.step + 1), sequences_per_step_ / micro, micro,
                          telemetry_.logs(state_.step + 1)};
    const StepResult result = train_step(
        *live_, config_.optimizer, device_, config_.data.sources.size(), [&](std::int64_t count) { return loader_->next(count); }, input,
        spikes_);
    ++state_.step;
    state_.tokens += config_.batch.tokens;
    telemetry_.step({state_.step, state_.tokens, input.learning_rate, seconds_now() - begin, loader_->seconds_waited() - waited,
                     cost.flops.train * static_cast<double>(config_.batch.tokens), live_->blocks(), plan.num_calls(), cost.parameters.total,
                     cost.flops.by_call, &live_->model().expert_loads()},
                    result);
    return after_step(segment);
  }

  bool now(std::int64_t period) const { return (period > 0 && state_.step % period == 0) || state_.step == total_steps(config_); }
  bool validation_due() const { return !config_.data.validation.sources.empty() && now(config_.data.validation.every); }

  bool after_step(const Segment& segment) {
    const bool whole = !validation_due() || validate(segment);
    if (now(config_.logging.sample_every)) write_sample(*live_, segment.plan, config_, folder_, device_, state_.step);
    if (checkpointing_.due(state_.step)) save();
    return whole;
  }

  // False, and nothing said, where a stop request came: the resumed run owes it.
  bool validate(const Segment& segment) {
    const auto losses = meristem::validate(live_->model(), segment.plan, config_, device_, stop_requested);
    for (const ValidationLoss& loss : losses) telemetry_.validation(state_.step, loss.source, loss.loss, loss.targets);
    owes_validation_ = false;
    return !losses.empty();
  }

  void save() {
    state_.blocks = live_->blocks();
    state_.loader = loader_->position().to_json();
    state_.recent_losses = spikes_.losses();
    state_.recent_grad_norms = spikes_.grad_norms();
    const double begin = seconds_now();
    if (checkpointing_.save(*live_, state_)) telemetry_.event("checkpoint", state_.step, {{"seconds", seconds_now() - begin}}, "");
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
  std::map<std::string, std::string> environment_;

  TrainState state_;
  SpikeDetector spikes_;
  std::size_t stage_ = 0, phase_ = 0;
  std::unique_ptr<LiveModel> live_;

  RunFolder folder_;
  MetricsCut cut_;
  Telemetry telemetry_;
  Checkpointing checkpointing_;

  bool owes_validation_ = false;  // of the step resumed from: a stop request had cut it short
  std::map<std::pair<std::int64_t, std::int64_t>, StageCost> costs_;  // by blocks and calls
};

// Trained to the end, and validated there: a resume has nothing to do but the plots, where a kill came before them.
bool is_finished(const RunConfig& config, const Start& start, const RunFolder& folder) {
  if (start.new_run || !start.checkpoint || start.checkpoint->state.step < total_steps(config)) return false;
  return config.data.validation.sources.empty() || has_event(folder.metrics(), "validation", total_steps(config));
}

ExitCode say_finished(const RunConfig& config, const RunFolder& folder) {
  Progress progress;
  progress.note(fmt::format("{}: is at its last step, {}; nothing to do", folder.root().string(), total_steps(config)));
  if (is_folder(folder.root() / "plots") && folder_entries(folder.root() / "plots").empty()) draw_plots(folder);
  return ExitCode::kOk;
}

}  // namespace

ExitCode run_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry) {
  install_stop_handlers();
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
  Start start = decide_start(config, request);
  const RunFolder existing = RunFolder::existing(config);
  if (is_finished(config, start, existing)) return say_finished(config, existing);
  const std::int64_t from_step = start.checkpoint ? start.checkpoint->state.step : 0;
  require_free_disk(std::filesystem::path(config.run.out) / config.run.name, checkpoint_disk_need(config, registry, from_step));
  return Run(config, registry, std::move(start)).train();
}

}  // namespace meristem
