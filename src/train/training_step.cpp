// A step of a run, and what follows it: its report, validation, sample, checkpoint.
#include <fmt/format.h>
#include <torch/torch.h>

#include "optim/learning_rate.h"
#include "train/early_stop.h"
#include "train/samples.h"
#include "train/seconds.h"
#include "train/signals.h"
#include "train/training.h"
#include "train/validation.h"

namespace meristem {

// Costs of the model as it is under a plan; counted once for each plan.
const StageCost& Training::cost_under(const DepthPlan& plan) {
  const auto [found, fresh] = costs_.try_emplace({live_->blocks(), plan.num_calls()});
  if (fresh || found->second.stage.plan != plan) found->second = stage_cost(config_, registry_, {0, 0, live_->blocks(), plan, {}});
  return found->second;
}

// False where a stop request cut its validation short.
bool Training::one_step(const Segment& segment) {
  const std::int64_t micro = std::min(config_.batch.micro_sequences, sequences_per_step_);
  const DepthPlan plan = plan_of_step(config_, segment, state_.step + 1);
  const StageCost& cost = cost_under(plan);
  const double begin = seconds_now(), waited = loader_->seconds_waited();
  if (unreported_.empty()) unreported_since_ = begin;
  const StepInput input{
      state_.step + 1, plan, learning_rate(config_, state_.step + 1), sequences_per_step_ / micro, micro, telemetry_.logs(state_.step + 1)};
  const auto results = stepper_.step(*live_, [&](std::int64_t count) { return loader_->next(count); }, input, spikes_);
  ++state_.step;
  state_.tokens += config_.batch.tokens;
  unreported_.push_back({state_.step, state_.tokens, input.learning_rate, seconds_now() - begin, loader_->seconds_waited() - waited,
                         cost.flops.train * static_cast<double>(config_.batch.tokens), live_->blocks(), plan.num_calls(),
                         cost.parameters.total, cost.flops.by_call, loader_->use(), live_->model().expert_loads()});
  report(results);
  if (telemetry_.logs(state_.step)) settle();
  return after_step(segment);
}

// Results come one by one from a step that waits, else many at a time: their updates share the time that they took together.
void Training::report(const std::vector<StepResult>& results) {
  if (results.empty()) return;
  const double each = (seconds_now() - unreported_since_) / static_cast<double>(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (stepper_.uses_graphs()) unreported_[i].seconds = each;
    telemetry_.step(unreported_[i], results[i]);
  }
  unreported_.clear();
}

bool Training::after_step(const Segment& segment) {
  improved_ = false;
  const bool whole = !validation_due() || validate(segment);
  if (config_.logging.sample_tokens > 0 && now(config_.logging.sample_every)) sample(segment);
  if (checkpointing_.due(state_.step) || improved_) save();
  return whole;
}

// False, and nothing said, where a stop request came: the resumed run owes it.
bool Training::validate(const Segment& segment) {
  settle();
  const auto losses = meristem::validate(live_->model(), segment.plan, config_, device_, stop_requested);
  for (const ValidationLoss& loss : losses) telemetry_.validation(state_.step, loss.source, loss.loss, loss.targets);
  owes_validation_ = false;
  improved_ = config_.early_stop && !losses.empty() &&
              observe_validation(*config_.early_stop, state_.step, watched_loss(*config_.early_stop, losses), state_.early_stop);
  return !losses.empty();
}

void Training::sample(const Segment& segment) {
  settle();
  write_sample(*live_, segment.plan, config_, folder_, device_, state_.step);
}

void Training::save() {
  settle();
  state_.blocks = live_->blocks();
  state_.loader = loader_->position().to_json();
  state_.recent_losses = spikes_.losses();
  state_.recent_grad_norms = spikes_.grad_norms();
  const double begin = seconds_now();
  if (checkpointing_.save(*live_, state_)) telemetry_.event("checkpoint", state_.step, {{"seconds", seconds_now() - begin}}, "");
}

}  // namespace meristem
