#include "config/validate.h"

#include <algorithm>
#include <set>
#include <type_traits>

#include <fmt/ranges.h>

#include "config/reader.h"
#include "config/timeline.h"
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
  if (data.packing == Packing::kBestFit && !data.document_mask) refuse("data.packing: best_fit contradicts data.document_mask: false");
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
  if (decay.kind == DecayKind::kNone && decay.from_step) refuse("schedule.decay.from_step: contradicts schedule.decay.kind: none");
  if (decay.kind == DecayKind::kNone) return;
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
      if (weight > 1e6 || (weight > 0 && weight < 1e-9)) {
        refuse("{}.mixture.{}: found {}; allowed: 0, or 1e-9 to 1e6", at, printable(source), number_text(weight));
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

void resolve_optimizer(OptimizerConfig& optimizer) {
  if (optimizer.betas.size() != 2) refuse("optimizer.betas: found {} numbers; allowed: two", optimizer.betas.size());
  if (optimizer.kind == OptimizerKind::kAdamw) {
    if (optimizer.muon) refuse("optimizer.muon: has no effect with optimizer.kind: adamw; null takes it out");
    return;
  }
  if (!optimizer.muon) optimizer.muon = MuonConfig{};
  if (optimizer.muon->scale == MuonScale::kOriginal && !optimizer.muon->lr) {
    refuse("optimizer.muon.lr: is required with optimizer.muon.scale: original, whose updates are larger than AdamW's (0.02 is usual)");
  }
}

void check_run_name(const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.size() <= 200;
  if (!plain) refuse("run.name: found {}; allowed: a plain folder name", in_quotes(name));
}

// ---- Options that nothing would read: refused, so that nobody believes in a setting that is ignored. The defaults are resolved.

[[noreturn]] void no_effect(const std::string& key, const std::string& beside) {
  throw InputError(fmt::format("{}: has no effect{}", key, beside));
}

void check_growth_effects(const GrowthConfig& growth) {
  const GrowthScheduleConfig& schedule = growth.schedule;
  const bool by_hand = schedule.kind == GrowthScheduleKind::kAtSteps;
  if (by_hand && schedule.alpha) no_effect("growth.schedule.alpha", " with growth.schedule.kind: at_steps; null takes it out");
  if (by_hand && schedule.until) no_effect("growth.schedule.until", " with growth.schedule.kind: at_steps; null takes it out");
  if (growth.op == GrowthOperator::kStack && growth.add_blocks)
    no_effect("growth.add_blocks", " with growth.operator: stack, which doubles the model; null takes it out");
  if (growth.op == GrowthOperator::kMap && growth.add_blocks)
    no_effect("growth.add_blocks", " with growth.operator: map, whose maps say how many blocks are added; null takes it out");
}

void refuse_without_effect(const RunConfig& config) {
  const CheckpointConfig& checkpoint = config.checkpoint;
  const LoggingConfig& logging = config.logging;
  const OptimizerConfig& optimizer = config.optimizer;
  if (config.growth) check_growth_effects(*config.growth);
  if (checkpoint.every == 0 && checkpoint.keep_every > 0) no_effect("checkpoint.keep_every", " with checkpoint.every: 0");
  if (logging.sample_tokens == 0 && logging.sample_every > 0) no_effect("logging.sample_every", " with logging.sample_tokens: 0");
  if (optimizer.decay_embeddings && optimizer.weight_decay == 0) no_effect("optimizer.decay_embeddings", " with optimizer.weight_decay: 0");
}

// ---- Values that were derived from others keep the rules that given ones keep.

// Walks the schema and holds each number and each chosen word against its rule. Forms that are read by functions of their own are checked
// there, and nothing derives them.
class RuleCheck {
 public:
  template <class T>
  void value(const std::string& key, const T& member, const Rule& rule) {
    check(path_ + key, member, rule);
  }
  template <class S>
  void section(const std::string& key, S& member, const std::string&) {
    within(key, member);
  }
  template <class S>
  void optional_section(const std::string& key, std::optional<S>& member, const std::string&) {
    if (member) within(key, *member);
  }
  template <class S>
  void sections(const std::string& key, std::vector<S>& member, const std::string&) {
    for (std::size_t i = 0; i < member.size(); ++i) within(fmt::format("{}[{}]", key, i), member[i]);
  }
  template <class S>
  void value_or_section(const std::string& key, S& member, const std::string&) {
    within(key, member);
  }
  void sources(const std::string& key, std::vector<std::pair<std::string, SourceConfig>>& member, const std::string&) {
    for (auto& [name, source] : member) within(key + "." + name, source);
  }
  void rest_sources(std::vector<std::pair<std::string, SourceConfig>>& member, const std::string&) {
    for (auto& [name, source] : member) within(name, source);
  }
  void numbers(const std::string&, const std::vector<std::pair<std::string, double>>&, const std::string&) {}

 private:
  template <class S>
  void within(const std::string& key, S& member) {
    const std::string outer = path_;
    path_ += key + ".";
    describe(*this, member);
    path_ = outer;
  }

  template <class T>
  static void check(const std::string& key, const T& member, const Rule& rule) {
    if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, double>) {
      const bool whole = std::is_same_v<T, std::int64_t>;
      if (in_range(static_cast<double>(member), rule)) return;
      throw InputError(fmt::format("{}: comes to {}; allowed: {}", key, number_text(static_cast<double>(member)),
                                   range_text(rule, whole ? "a whole number" : "a number")));
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (rule.allowed.empty() || std::find(rule.allowed.begin(), rule.allowed.end(), member) != rule.allowed.end()) return;
      throw InputError(fmt::format("{}: comes to {}; allowed: {}", key, in_quotes(member), fmt::join(rule.allowed, ", ")));
    }
  }

  std::string path_;
};

void check_rules(const RunConfig& config) {
  RunConfig copy = config;  // describe() takes members to fill or to read; here they are read
  RuleCheck check;
  describe(check, copy);
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
  resolve_optimizer(config.optimizer);
  if (!config.precision.residual) config.precision.residual = config.precision.compute;
  if (config.precision.compute == Precision::kFp32 && config.precision.residual == Precision::kBf16) {
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
