#include "data/sequence_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

// Leaves room for sums and products with small numbers.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 60;

std::string fresh_name(const JsonCursor& json, std::set<std::string>& seen) {
  std::string name = json.at("name").text();
  if (!seen.insert(name).second) json.at("name").fail("the source " + in_quotes(name) + " stands here twice");
  return name;
}

}  // namespace

std::string LoaderPosition::to_json() const {
  nlohmann::ordered_json json;
  json["sequence"] = sequence;
  json["step"] = step;
  json["in_step"] = in_step;
  json["phase_step"] = phase_step;
  json["sources"] = nlohmann::ordered_json::array();
  for (const Source& source : sources) json["sources"].push_back({{"name", source.name}, {"tokens", source.tokens}});
  json["drawn"] = nlohmann::ordered_json::array();
  for (const Drawn& one : drawn) {
    json["drawn"].push_back({{"name", one.name}, {"weight", one.weight}, {"sequences", one.sequences}});
    if (one.lag) json["drawn"].back()["lag"] = *one.lag;
  }
  return json.dump();
}

LoaderPosition LoaderPosition::from_json(const std::string& text) {
  const std::string origin = "loader position";
  const nlohmann::json document = parse_json_strict(text, origin);
  const JsonCursor json(document, origin);
  json.allow_only({"sequence", "step", "in_step", "phase_step", "sources", "drawn"});
  LoaderPosition position;
  position.sequence = json.at("sequence").integer(0, kMostTokens);
  position.step = json.at("step").integer(0, kMostTokens);
  position.in_step = json.at("in_step").integer(0, position.sequence);
  position.phase_step = json.at("phase_step").integer(0, position.step);
  std::set<std::string> seen;
  for (const JsonCursor& item : json.at("sources").items()) {
    item.allow_only({"name", "tokens"});
    position.sources.push_back({fresh_name(item, seen), item.at("tokens").integer(0, kMostTokens)});
  }
  seen.clear();
  for (const JsonCursor& item : json.at("drawn").items()) {
    item.allow_only({"name", "weight", "sequences", "lag"});
    position.drawn.push_back(
        {fresh_name(item, seen), item.at("weight").integer(0, kMostTokens), item.at("sequences").integer(0, position.sequence)});
    if (item.has("lag")) position.drawn.back().lag = item.at("lag").integer(-kMostTokens, kMostTokens);
  }
  return position;
}

namespace {

std::vector<double> weights_of(const PhaseConfig& phase, const std::vector<SampledSource>& sources) {
  std::vector<double> weights(sources.size(), 0.0);
  for (const auto& [name, weight] : phase.mixture) {
    const auto found = std::find_if(sources.begin(), sources.end(), [&](const SampledSource& source) { return source.name == name; });
    if (found == sources.end()) throw InputError(fmt::format("phases.{}.mixture: unknown source {}", phase.name, in_quotes(name)));
    weights[static_cast<std::size_t>(found - sources.begin())] = weight;
  }
  return weights;
}

Mixture first_mixture(const std::vector<PhaseConfig>& phases, const std::vector<SampledSource>& sources) {
  return Mixture(phases.empty() ? std::vector<double>(sources.size(), 1.0) : weights_of(phases.front(), sources));
}

std::int64_t checked_positive(std::int64_t value, const char* what) {
  if (value < 1) throw InputError(fmt::format("{}: found {}, allowed: at least 1", what, value));
  return value;
}

}  // namespace

SequenceSampler::SequenceSampler(std::vector<SampledSource> sources, const std::vector<PhaseConfig>& phases, std::int64_t sequence_length,
                                 std::int64_t sequences_per_step)
    : sources_(std::move(sources)),
      length_(checked_positive(sequence_length, "data.sequence_length")),
      per_step_(checked_positive(sequences_per_step, "sequences of an update (batch.tokens / data.sequence_length)")),
      mixture_(first_mixture(phases, sources_)) {
  if (phases.empty()) phases_.push_back({0, mixture_, {}});
  for (const PhaseConfig& phase : phases) add_phase(phase);
  for (const SampledSource& source : sources_) position_.sources.push_back({source.name, 0});
}

void SequenceSampler::add_phase(const PhaseConfig& config) {
  const auto from_step = static_cast<std::int64_t>(std::llround(config.from_step.value));
  const bool ascends = phases_.empty() ? from_step == 0 : from_step > phases_.back().from_step;
  if (!ascends || config.from_step.in_tokens) {
    throw InputError(
        fmt::format("phases.{}.from_step: found {}, allowed: steps, 0 for the first phase, then ascending", config.name, from_step));
  }
  if (!phases_.empty() && phases_.back().ramp && from_step < phases_.back().from_step + phases_.back().ramp->steps()) {
    throw InputError(fmt::format("phases.{}.from_step: found {}, inside the ramp of the phase before, which ends after step {}",
                                 config.name, from_step, phases_.back().from_step + phases_.back().ramp->steps()));
  }
  Phase phase{from_step, Mixture(weights_of(config, sources_)), {}};
  if (config.ramp_steps > 0) {
    if (phases_.empty()) throw InputError(fmt::format("phases.{}.ramp_steps: the first phase has nothing to ramp from", config.name));
    phase.ramp.emplace(phases_.back().ramp ? phases_.back().ramp->weights(from_step + 1) : phases_.back().mixture.weights(),
                       phase.mixture.weights(), config.ramp_steps);
    phase.mixture.set_weights(phase.ramp->weights(1));
  }
  phases_.push_back(std::move(phase));
}

std::size_t SequenceSampler::phase_at(std::int64_t step) const {
  std::size_t phase = 0;
  while (phase + 1 < phases_.size() && phases_[phase + 1].from_step <= step) ++phase;
  return phase;
}

void SequenceSampler::begin_step() {
  const std::size_t phase = phase_at(position_.step);
  const auto& ramp = phases_[phase].ramp;
  if (phase == phase_) {
    if (ramp) mixture_.set_weights(ramp->weights(position_.step - phases_[phase].from_step + 1));
    return;
  }
  phase_ = phase;
  mixture_ = phases_[phase].mixture;
  position_.phase_step = phases_[phase].from_step;
}

std::int64_t SequenceSampler::constant_until() const {
  const Phase& phase = phases_[phase_];
  if (phase.ramp && position_.step <= phase.from_step + phase.ramp->steps()) return position_.step + 1;
  return phase_ + 1 < phases_.size() ? phases_[phase_ + 1].from_step : std::numeric_limits<std::int64_t>::max();
}

SequenceOrigin SequenceSampler::next() {
  if (position_.in_step == 0) begin_step();
  const std::size_t source = mixture_.draw();
  std::int64_t& tokens = position_.sources[source].tokens;
  const SequenceOrigin origin{source, tokens};
  tokens += length_;
  if (over_limit(source, tokens)) runs_out(source, position_.step + 1);
  ++position_.sequence;
  if (++position_.in_step == per_step_) {
    position_.in_step = 0;
    ++position_.step;
  }
  return origin;
}

void SequenceSampler::skip_to(std::int64_t step) {
  while (position_.step < step) {
    if (position_.in_step == 0) begin_step();
    const std::int64_t end = std::min(step, constant_until());
    const std::int64_t count = (end - position_.step) * per_step_ - position_.in_step;
    const std::vector<std::int64_t> before = mixture_.drawn();
    mixture_.skip(count);
    for (std::size_t i = 0; i < sources_.size(); ++i) position_.sources[i].tokens += (mixture_.drawn()[i] - before[i]) * length_;
    position_.sequence += count;
    position_.step = end;
    position_.in_step = 0;
  }
}

bool SequenceSampler::over_limit(std::size_t source, std::int64_t tokens) const {
  const SampledSource& info = sources_[source];
  return info.max_repeats > 0 && static_cast<double>(tokens) > info.max_repeats * static_cast<double>(info.tokens);
}

void SequenceSampler::runs_out(std::size_t source, std::int64_t step) const {
  const SampledSource& info = sources_[source];
  throw InputError(fmt::format("data.sources.{}: runs out at step {}: its {} tokens may be read {} times (max_repeats)", info.name, step,
                               grouped_digits(info.tokens), number_text(info.max_repeats)));
}

void SequenceSampler::check_supply(std::int64_t total_steps) const {
  SequenceSampler end = *this;
  end.skip_to(total_steps);
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    const std::int64_t needed = end.position_.sources[i].tokens;
    if (!over_limit(i, needed)) continue;
    std::int64_t enough = position_.step, short_at = total_steps;  // supply holds up to `enough`, not up to `short_at`
    while (short_at - enough > 1) {
      const std::int64_t middle = enough + (short_at - enough) / 2;
      SequenceSampler there = *this;
      there.skip_to(middle);
      (over_limit(i, there.position_.sources[i].tokens) ? short_at : enough) = middle;
    }
    const SampledSource& info = sources_[i];
    throw InputError(
        fmt::format("data.sources.{}: runs out at step {} of {}: the run reads its {} tokens {:.2f} times, max_repeats allows {}",
                    info.name, short_at, total_steps, grouped_digits(info.tokens),
                    static_cast<double>(needed) / static_cast<double>(info.tokens), number_text(info.max_repeats)));
  }
}

std::vector<SourceUse> SequenceSampler::use() const {
  std::vector<SourceUse> out;
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    const std::int64_t tokens = position_.sources[i].tokens;
    out.push_back({sources_[i].name, tokens, static_cast<double>(tokens) / static_cast<double>(sources_[i].tokens)});
  }
  return out;
}

LoaderPosition SequenceSampler::position() const {
  LoaderPosition position = position_;
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    position.drawn.push_back({sources_[i].name, mixture_.weights()[i], mixture_.drawn()[i]});
    if (phases_[phase_].ramp) position.drawn.back().lag = mixture_.lag()[i];
  }
  return position;
}

void SequenceSampler::seek(const LoaderPosition& position) {
  if (position.in_step >= per_step_) {
    throw InputError(fmt::format("loader position: in_step: {} sequences of an update are taken, which has {} in this config",
                                 position.in_step, per_step_));
  }
  SequenceSampler fresh = *this;
  fresh.position_ = position;
  fresh.position_.drawn.clear();
  fresh.position_.sources.clear();
  for (const SampledSource& source : sources_) {
    const auto known =
        std::find_if(position.sources.begin(), position.sources.end(), [&](const auto& other) { return other.name == source.name; });
    fresh.position_.sources.push_back({source.name, known == position.sources.end() ? 0 : known->tokens});
  }
  fresh.phase_ = phase_at(position.step);
  const Phase& phase = phases_[fresh.phase_];
  fresh.mixture_ = phase.mixture;
  const std::int64_t begun = position.step - phase.from_step + (position.in_step > 0);  // updates of the phase
  if (phase.ramp && begun > 0) fresh.mixture_.set_weights(phase.ramp->weights(begun));
  fresh.continue_mixture(position);
  *this = std::move(fresh);
}

void SequenceSampler::continue_mixture(const LoaderPosition& position) {
  std::vector<std::int64_t> drawn, lag;
  const bool ramps = phases_[phase_].ramp.has_value();
  bool same = position.drawn.size() == sources_.size() && position.phase_step >= phases_[phase_].from_step;
  for (std::size_t i = 0; same && i < sources_.size(); ++i) {
    same = position.drawn[i].name == sources_[i].name && position.drawn[i].weight == mixture_.weights()[i] &&
           position.drawn[i].lag.has_value() == ramps;
    drawn.push_back(position.drawn[i].sequences);
    lag.push_back(position.drawn[i].lag.value_or(0));
  }
  if (!same) {
    position_.phase_step = position.step;
  } else if (!(ramps ? mixture_.restore(drawn, lag) : mixture_.restore(drawn))) {
    throw DamagedError("loader position: drawn: these counts cannot have come from their weights");
  }
}

}  // namespace meristem
