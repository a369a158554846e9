#include "config/validate.h"

#include <algorithm>
#include <set>

#include "config/effects.h"
#include "config/refuse.h"
#include "config/rules.h"
#include "config/timeline.h"
#include "config/validate_depth.h"
#include "config/validate_model.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 60;

void resolve_data(RunConfig& config) {
  DataConfig& data = config.data;
  if (data.sources.empty()) refuse("data.sources: is missing; at least one source is required");
  if (data.validation.sources.empty() && data.validation.every > 0)
    refuse("data.validation.every: has no effect without a validation source");
  if (data.validation.sources.empty() && data.validation.tokens > 0)
    refuse("data.validation.tokens: has no effect without a validation source");
  if (data.packing == "best_fit" && !data.document_mask) refuse("data.packing: best_fit contradicts data.document_mask: false");
  if (!config.phases.empty()) return;
  PhaseConfig phase;
  phase.name = "all";
  for (const auto& source : data.sources) phase.mixture.emplace_back(source.first, 1.0);
  config.phases.push_back(std::move(phase));
}

void resolve_batch(RunConfig& config) {
  BatchConfig& batch = config.batch;
  const std::int64_t length = config.data.sequence_length;
  if (batch.tokens % length != 0) refuse("batch.tokens: found {}; allowed: a multiple of data.sequence_length = {}", batch.tokens, length);
  const std::int64_t sequences = batch.tokens / length;
  if (batch.micro_sequences == 0) {
    batch.micro_sequences = std::min<std::int64_t>(8, sequences);
    while (sequences % batch.micro_sequences != 0) --batch.micro_sequences;
  }
  if (sequences % batch.micro_sequences != 0) {
    refuse("batch.micro_sequences: found {}; allowed: a divisor of the {} sequences of a batch", batch.micro_sequences, sequences);
  }
}

void check_schedule(const RunConfig& config) {
  const LearningRate rate(config);
  const std::int64_t steps = rate.end, warmup = rate.warmup_end, from = rate.decay_from;
  if (steps < 1) refuse("schedule.steps: is less than one update");
  // Token counts are whole numbers of 64 bits, and leave room for sums.
  if (steps > kMostTokens / config.batch.tokens) {
    refuse("schedule.steps: found {} updates of {} tokens; allowed: at most {} tokens in a run", steps, config.batch.tokens, kMostTokens);
  }
  if (warmup > steps) refuse("schedule.warmup: found {} updates; allowed: at most schedule.steps = {}", warmup, steps);
  const DecayConfig& decay = config.schedule.decay;
  if (decay.kind == "none" && decay.from_step) refuse("schedule.decay.from_step: contradicts schedule.decay.kind: none");
  if (decay.kind == "none") return;
  if (from >= steps && decay.from_step)
    refuse("schedule.decay.from_step: found update {}; allowed: below schedule.steps = {}", from, steps);
  if (from < warmup) refuse("schedule.decay.from_step: found update {}; allowed: at or after the warmup's end, {}", from, warmup);
}

// `from`: the update after which phase i begins.
void check_ramp(const RunConfig& config, std::size_t i, std::int64_t from) {
  const std::int64_t ramp = config.phases[i].ramp_steps;
  if (i == 0 && ramp > 0) refuse("phases[0].ramp_steps: has no effect; there is no phase before the first");
  const bool last = i + 1 == config.phases.size();
  const std::int64_t end = updates_of(last ? config.schedule.steps : config.phases[i + 1].from_step, config);
  if (end > from && ramp > end - from)
    refuse("phases[{}].ramp_steps: found {}; allowed: at most the phase's {} updates", i, ramp, end - from);
}

void check_phases(const RunConfig& config) {
  const std::int64_t updates = updates_of(config.schedule.steps, config);
  std::set<std::string> names, known;
  for (const auto& source : config.data.sources) known.insert(source.first);
  std::int64_t before = -1;
  for (std::size_t i = 0; i < config.phases.size(); ++i) {
    const PhaseConfig& phase = config.phases[i];
    const std::string at = fmt::format("phases[{}]", i);
    if (!names.insert(phase.name).second) refuse("{}.name: {} is taken already; names must differ", at, in_quotes(phase.name));
    const std::int64_t from = updates_of(phase.from_step, config);
    if (i == 0 && from != 0) refuse("{}.from_step: found {}; the first phase begins at 0", at, from);
    if (from <= before) refuse("{}.from_step: found {}; allowed: after the phase before, {}", at, from, before);
    if (from >= updates) refuse("{}.from_step: found {}; allowed: below schedule.steps = {}", at, from, updates);
    before = from;
    check_ramp(config, i, from);
    double sum = 0;
    for (const auto& [source, weight] : phase.mixture) {
      if (!known.contains(source)) {
        const std::vector<std::string> candidates(known.begin(), known.end());
        const auto near = did_you_mean(source, candidates);
        refuse("{}.mixture.{}: no such source in data.sources{}", at, printable(source), near ? " (did you mean " + *near + "?)" : "");
      }
      sum += weight;
    }
    if (!(sum > 0)) refuse("{}.mixture: the weights sum to zero; at least one source needs a weight", at);
  }
}

void check_early_stop(const RunConfig& config) {
  const ValidationConfig& validation = config.data.validation;
  if (validation.every == 0) refuse("early_stop: needs validation during the run; set data.validation.every");
  if (config.early_stop->source.empty()) return;
  std::vector<std::string> names;
  for (const auto& source : validation.sources) names.push_back(source.first);
  if (std::find(names.begin(), names.end(), config.early_stop->source) != names.end()) return;
  const auto near = did_you_mean(config.early_stop->source, names);
  refuse("early_stop.source: {} is no source of data.validation{}", in_quotes(config.early_stop->source),
         near ? " (did you mean " + *near + "?)" : "");
}

void check_run_name(const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.size() <= 200;
  if (!plain) refuse("run.name: found {}; allowed: a plain folder name", in_quotes(name));
}

}  // namespace

void resolve_and_validate(RunConfig& config) {
  check_run_name(config.run.name);
  resolve_model(config.model);
  resolve_data(config);
  resolve_batch(config);
  check_schedule(config);
  if (config.early_stop) check_early_stop(config);
  if (config.initial && config.initial->checkpoint.empty()) refuse("initial.checkpoint: is empty; allowed: a checkpoint or a run folder");
  if (config.optimizer.betas.size() != 2) refuse("optimizer.betas: found {} numbers; allowed: two", config.optimizer.betas.size());
  if (config.precision.residual.empty()) config.precision.residual = config.precision.compute;
  if (config.precision.compute == "fp32" && config.precision.residual == "bf16") {
    refuse("precision.residual: bf16 contradicts precision.compute: fp32");
  }
  check_phases(config);
  check_loop(config);
  if (config.growth) check_growth(config);
  check_phase_plans(config);
  check_repeats(config);
  refuse_without_effect(config);
  check_rules(config);
}

}  // namespace meristem
