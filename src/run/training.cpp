#include "run/training.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "checkpoint/tensors.h"
#include "config/load.h"
#include "core/cpus.h"
#include "core/file.h"
#include "core/text.h"
#include "ops/paths.h"
#include "run/stopping.h"
#include "run/validation.h"

namespace meristem {
namespace {

// Damage that is found behind the files' own checks is said with the place that it came from.
template <class Action>
void naming(const std::string& place, Action&& action) {
  try {
    action();
  } catch (const DamagedError& error) {
    throw DamagedError(place + ": " + error.what());
  }
}

}  // namespace

Training::Training(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, Start start, const RunParts& parts,
                   std::shared_ptr<Ranks> ranks, at::Device device)
    : config_(config),
      timeline_(timeline),
      registry_(registry),
      start_(std::move(start)),
      ranks_(std::move(ranks)),
      device_(device),
      sequences_per_step_(config.batch.tokens / config.data.sequence_length),
      micro_(micro_batches_of(config, ranks_->size())),
      loader_(parts.make_loader(config, timeline, *ranks_)),
      environment_(environment_of(config, device_name(device_))),
      live_(starting_model()),
      updater_(make_updater()),
      folder_(open_folder()),
      cut_(cut_metrics()),
      telemetry_(config, timeline, folder_, resumed_after(), device_name(device_), ranks_->first()),
      checkpointing_(config, timeline, folder_, start_.checkpoint ? &state_ : nullptr, parts.make_checkpoint_folder) {}

std::unique_ptr<Updater> Training::make_updater() {
  auto updater = std::make_unique<Updater>(*live_, config_, spikes_, graph_device_of(config_, device_, live_->paths()));
  updater->strands_for(micro_.sequences);  // what cannot be is refused before anything is written
  return updater;
}

// The first rank makes it, and the others find it made.
RunFolder Training::open_folder() {
  agree_on_data(*ranks_, *loader_);
  std::optional<RunFolder> opened;
  ranks_->first_does("open the run folder", [&] {
    opened = RunFolder::open(config_, start_.new_run, lock_);
    if (folder_entries(opened->checkpoints()) != start_.seen) {
      throw InputError(fmt::format("{}: another job has just written a checkpoint here; start again", opened->root().string()));
    }
  });
  if (opened) return *opened;
  const RunFolder folder = RunFolder::existing(config_);
  if (!is_folder(folder.root())) {
    throw InputError(fmt::format("run.out: {} is not seen here; all ranks need the same file system", folder.root().string()));
  }
  return folder;
}

ExitCode Training::train() {
  try {
    return train_spans();
  } catch (const NonFiniteError&) {
    throw;  // all ranks found it in the same sums
  } catch (const std::exception& error) {
    ranks_->fail(error.what());
    throw;
  }
}

ExitCode Training::train_spans() {
  begin();
  for (const Span& span : timeline_.spans()) {
    if (owes_validation_ && span.from_step < state_.step && state_.step <= span.until_step) {
      if (!validate(span)) return stop();
      save();  // the checkpoint that the run resumed from does not know of it
    }
    if (stops_early(config_, state_) && state_.step < timeline_.updates()) return end_early(span);  // the validation owed said so
    if (span.until_step <= state_.step) continue;
    enter(span);
    while (state_.step < span.until_step) {
      const bool whole = one_update(span);
      if (stop_asked() && (!whole || state_.step < timeline_.updates())) return stop();
      if (stops_early(config_, state_)) return end_early(span);
    }
  }
  return end();
}

MetricsCut Training::cut_metrics() const {
  return start_.new_run || !ranks_->first() ? MetricsCut{} : truncate_after(folder_.metrics(), resumed_after().value_or(-1));
}

std::unique_ptr<LiveModel> Training::starting_model() {
  auto live = start_.checkpoint ? load_checkpoint_state()
                                : std::make_unique<LiveModel>(config_, timeline_, registry_, device_, timeline_.stages().front().blocks,
                                                              !start_.initial, ranks_);
  if (start_.initial) load_initial(*start_.initial, config_, *live);
  loader_->check_supply(timeline_.updates());
  state_.seed = config_.run.seed;  // a branch may have another than its checkpoint
  state_.config_yaml = dump_config(config_);
  state_.config_hash = config_hash(config_);
  return live;
}

void Training::begin() {
  if (ranks_->first()) replace_file_durably(folder_.root() / "environment.json", nlohmann::json(environment_).dump(2) + "\n");
  for (const std::string& note : start_.notes) telemetry_.note(note);
  const bool begins = start_.new_run || !start_.checkpoint;  // a resumed run has said it already
  if (start_.checkpoint) {
    for (const std::string& note : environment_notes(state_.environment, environment_)) telemetry_.note("warning: " + note);
    const bool told = !ranks_->first() || has_event(folder_.metrics(), "validation", state_.step);
    owes_validation_ = !start_.from_trunk && validation_due() && ranks_->first_says("validation told", told ? "yes" : "no") == "no";
    telemetry_.event("resume", state_.step,
                     {{"checkpoint", std::filesystem::absolute(start_.checkpoint_path).string()}, {"lost_lines", cut_.lost}},
                     fmt::format("resuming after step {} from {}", state_.step, start_.checkpoint_path.string()));
    start_.checkpoint.reset();  // unmaps the files
  }
  if (start_.initial) {
    telemetry_.event("initial", 0, {{"checkpoint", start_.initial->path.string()}},
                     fmt::format("weights of {}; step 0, fresh optimizer", start_.initial->path.string()));
    start_.initial.reset();
  }
  say_packing(begins);
  state_.environment = environment_;
  telemetry_.note(fmt::format("kernels: {}, graph {}; {}", ops::describe(live_->paths()), updater_->uses_graphs() ? "on" : "off",
                              threads_text(at::get_num_threads(), cpu_quota()) +
                                  (updater_->strands_for(micro_.sequences) > 1 ? ", each with sequences of its own" : "")));
}

// Nothing is dropped silently: what packing cuts off is counted, in tokens and trained tokens.
void Training::say_packing(bool event) {
  for (const PackingReport& packed : loader_->packing()) {
    if (event) {
      telemetry_.event("packing", state_.step,
                       {{"source", packed.name},
                        {"documents", packed.documents},
                        {"sequences", packed.rows},
                        {"tokens", packed.tokens},
                        {"cut_documents", packed.cut_documents},
                        {"cut_tokens", packed.cut_tokens},
                        {"cut_trained", packed.cut_trained}},
                       "");
    }
    for (const std::string& note : packing_notes(packed, config_.data.sequence_length, sequences_per_step_)) telemetry_.note(note);
  }
}

std::unique_ptr<LiveModel> Training::load_checkpoint_state() {
  state_ = start_.checkpoint->state;
  if (start_.from_trunk) state_.early_stop.reset();  // a branch: the best so far is another run's
  stage_ = timeline_.stage_after(state_.step);
  for (const Span& span : timeline_.spans()) {
    if (span.from_step < state_.step) phase_ = span.phase;
  }
  auto live = std::make_unique<LiveModel>(config_, timeline_, registry_, device_, state_.blocks, false, ranks_);
  const std::string path = start_.checkpoint_path.string();
  naming(path, [&] { live->load(tensors_of(start_.checkpoint->model), tensors_of(start_.checkpoint->optimizer)); });
  spikes_ = SpikeDetector(state_.recent_losses, state_.recent_grad_norms);
  naming(path + "/state.json", [&] { loader_->seek(LoaderPosition::from_json(state_.loader)); });
  return live;
}

// Grows where the span's stage is a later one, and announces its phase.
void Training::enter(const Span& span) {
  while (stage_ < span.stage) grow(timeline_.stages()[++stage_]);
  state_.depth_plan = config_.model.plan_text(span.plan);
  const PhaseConfig& phase = config_.phases[span.phase];
  if (state_.step == span.from_step && (span.from_step == 0 || phase_ != span.phase)) {
    telemetry_.event("phase", state_.step, {{"name", phase.name}, {"depth_plan", state_.depth_plan}},
                     config_.phases.size() > 1 ? fmt::format("step {}: phase {}", state_.step, phase.name) : "");
  }
  phase_ = span.phase;
}

void Training::grow(const Stage& stage) {
  settle();
  updater_->await_weights();
  updater_.reset();  // its graphs point into the model that goes
  const double begin = seconds_now();
  const std::int64_t before = live_->blocks();
  const std::string op(word_of(config_.growth->op));
  live_ = live_->grown(stage.source_of, config_.growth->inserted, config_.growth->moments);
  updater_ = make_updater();
  state_.growth_history.push_back({state_.step, before, stage.blocks, op, stage.source_of});
  telemetry_.forget_speed();
  const double seconds = seconds_now() - begin;
  telemetry_.event("growth", state_.step,
                   {{"from_blocks", before},
                    {"to_blocks", stage.blocks},
                    {"operator", op},
                    {"source_of", fmt::format("{}", fmt::join(stage.source_of, " "))},
                    {"seconds", seconds}},
                   fmt::format("step {}: grew {} -> {} blocks ({}) in {:.2f} s", state_.step, before, stage.blocks, op, seconds));
}

ExitCode Training::stop() {
  save();
  checkpointing_.finish();
  const std::string signal = stop_signal() != 0 ? fmt::format("signal {}", stop_signal()) : "a signal to another rank";
  telemetry_.note(fmt::format("stopped by {} after step {}; saved. Go on with --resume auto", signal, state_.step));
  telemetry_.finish(state_.step, false);
  return ExitCode::kInterrupted;
}

ExitCode Training::end_early(const Span& span) {
  telemetry_.event("early_stop", state_.step, {{"best_step", state_.early_stop->best_step}, {"best_loss", state_.early_stop->best_loss}},
                   fmt::format("step {}: no better validation for {} in a row", state_.step, config_.early_stop->patience));
  sample(span);
  save();
  return end();
}

ExitCode Training::end() {
  checkpointing_.finish();
  telemetry_.finish(state_.step, true);
  if (state_.early_stop) {
    telemetry_.note(fmt::format("best validation loss {:.4f} after step {}: {}", state_.early_stop->best_loss, state_.early_stop->best_step,
                                (folder_.checkpoints() / checkpoint_name(state_.early_stop->best_step)).string()));
  }
  const std::string trouble = ranks_->first() ? draw_plots(folder_) : "";
  if (!trouble.empty()) telemetry_.note(trouble);
  for (const SourceUse& use : loader_->use()) {
    telemetry_.note(fmt::format("source {}: {} tokens, {:.3g} epochs", use.name, grouped_digits(use.tokens), use.epochs));
  }
  telemetry_.note(fmt::format("done: {} steps, {} tokens; {}", state_.step, grouped_digits(state_.tokens), folder_.root().string()));
  return ExitCode::kOk;
}

// Costs of the model as it is under a plan; counted once for each plan.
const StageCost& Training::cost_under(const DepthPlan& plan) {
  const auto [found, fresh] = costs_.try_emplace({live_->blocks(), plan.num_calls()});
  const DepthPlan& counted = found->second.stage.plan;
  if (fresh || counted != plan || counted.loop() != plan.loop())
    found->second = stage_cost(config_, registry_, {0, 0, live_->blocks(), plan, {}});
  return found->second;
}

// False where a stop request cut its validation short.
bool Training::one_update(const Span& span) {
  const DepthPlan plan = timeline_.plan_of_update(span, state_.step + 1);
  const StageCost& cost = cost_under(plan);
  const double begin = seconds_now(), waited = loader_->seconds_waited();
  if (unreported_.empty()) unreported_since_ = begin;
  const UpdateInput input{
      state_.step + 1, plan, timeline_.learning_rate(state_.step + 1), micro_.count, micro_.sequences, telemetry_.logs(state_.step + 1),
      stop_requested()};
  updater_->queue([&](std::int64_t rows) { return loader_->next(rows); }, input);
  // A CPU has the result by now; a GPU is asked when somebody wants to know.
  const auto results = updater_->uses_graphs() ? std::vector<UpdateResult>{} : updater_->finish();
  ++state_.step;
  state_.tokens += config_.batch.tokens;
  unreported_.push_back({state_.step,
                         state_.tokens,
                         input.learning_rate,
                         seconds_now() - begin,
                         loader_->seconds_waited() - waited,
                         cost.flops.train * static_cast<double>(config_.batch.tokens),
                         {},
                         live_->blocks(),
                         plan.num_calls(),
                         cost.parameters.total,
                         cost.flops.by_call,
                         loader_->use(),
                         live_->model().expert_loads()});
  report(results);
  if (telemetry_.logs(state_.step)) settle();
  return after_update(span);
}

// Results come one by one from a step that waits, else many at a time: their updates share the time that they took together.
void Training::report(const std::vector<UpdateResult>& results) {
  if (results.empty()) return;
  for (const UpdateResult& result : results) some_rank_stops_ = some_rank_stops_ || result.stop_asked;
  const double each = (seconds_now() - unreported_since_) / static_cast<double>(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (updater_->uses_graphs()) unreported_[i].seconds = each;
    if (state_.counts) {
      state_.counts->real_tokens += results[i].real_tokens;
      state_.counts->trained_tokens += results[i].targets;
      state_.counts->flops += unreported_[i].flops;
    }
    unreported_[i].counts = state_.counts;
    telemetry_.step(unreported_[i], results[i]);
  }
  unreported_.clear();
}

bool Training::after_update(const Span& span) {
  improved_ = false;
  const bool whole = !validation_due() || validate(span);
  if (config_.logging.sample_tokens > 0 && now(config_.logging.sample_every)) sample(span);
  if (checkpointing_.due(state_.step) || improved_) save();
  const std::int64_t period = config_.parallel.check_replicas_every;
  if (period > 0 && state_.step % period == 0) updater_->check_replicas();
  return whole;
}

// False, and nothing said, where a stop request came: the resumed run owes it.
bool Training::validate(const Span& span) {
  settle();
  updater_->await_weights();
  const auto losses = meristem::validate(live_->model(), span.plan, config_, device_, *ranks_, stop_requested);
  some_rank_stops_ = some_rank_stops_ || losses.empty();
  for (const ValidationLoss& loss : losses) telemetry_.validation(state_.step, loss.source, loss.loss, loss.targets);
  owes_validation_ = false;
  improved_ = config_.early_stop && !losses.empty() &&
              observe_validation(*config_.early_stop, state_.step, watched_loss(*config_.early_stop, losses), state_.early_stop);
  return !losses.empty();
}

void Training::sample(const Span& span) {
  settle();
  updater_->await_weights();
  if (ranks_->first()) write_sample(live_->model(), span.plan, config_, folder_, device_, state_.step);
}

void Training::save() {
  settle();
  updater_->await_weights();
  state_.blocks = live_->blocks();
  state_.loader = loader_->position().to_json();
  state_.recent_losses = spikes_.losses();
  state_.recent_grad_norms = spikes_.grad_norms();
  const double begin = seconds_now();
  if (checkpointing_.save(*live_, state_)) telemetry_.event("checkpoint", state_.step, {{"seconds", seconds_now() - begin}}, "");
}

}  // namespace meristem
