// The global order of a run: which source, and which tokens of its stream, each sequence comes from. A pure function of the config; ranks,
// threads and the tokens themselves play no part, so it can be run ahead, counted and resumed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "data/mixture.h"

namespace meristem {

// Where a loader stands: plain data that a checkpoint keeps as text. Loaded again, the next sequence is the very next unseen one.
struct LoaderPosition {
  struct Source {
    std::string name;
    std::int64_t tokens = 0;  // tokens of its stream that were inputs so far: where its next sequence begins
    bool operator==(const Source&) const = default;
  };
  // What the mixture of the current phase has drawn; it decides which source comes next.
  struct Drawn {
    std::string name;
    std::int64_t weight = 0;  // in units of 1e-9, as the config had it; in a phase that ramps in, of its newest update in units of 1e-12
    std::int64_t sequences = 0;
    std::optional<std::int64_t> lag = {};  // Mixture::lag, in a phase that ramps in: there it does not follow from the counts
    bool operator==(const Drawn&) const = default;
  };

  std::int64_t sequence = 0;    // sequences handed out so far over the whole run, on all ranks
  std::int64_t step = 0;        // optimizer updates whose sequences are all handed out
  std::int64_t in_step = 0;     // sequences of the update after that
  std::int64_t phase_step = 0;  // the update after which `drawn` began to count
  std::vector<Source> sources;  // in config order
  std::vector<Drawn> drawn;     // in config order
  bool operator==(const LoaderPosition&) const = default;

  std::string to_json() const;
  // DamagedError that names the key, with "loader position" for the file.
  static LoaderPosition from_json(const std::string& text);
};

struct SampledSource {
  std::string name;
  std::int64_t tokens = 0;  // of one epoch
  double max_repeats = 0;   // epochs; 0: unlimited
};

struct SourceUse {
  std::string name;
  std::int64_t tokens = 0;  // inputs taken
  double epochs = 0;
};

struct SequenceOrigin {
  std::size_t source = 0;
  std::int64_t offset = 0;  // in the source's stream: inputs are [offset, offset + T), targets one further
};

class SequenceSampler {
 public:
  // phases: from_step in steps, ascending, the first 0; none means one phase of equal weights. InputError where they are not so, or name
  // a source that is not there, or ramp over the first phase's start or the next one's.
  SequenceSampler(std::vector<SampledSource> sources, const std::vector<PhaseConfig>& phases, std::int64_t sequence_length,
                  std::int64_t sequences_per_step);

  // The next sequence. InputError, naming source and step, where it would read a source more than max_repeats times.
  SequenceOrigin next();

  // To the end of update `step` without drawing one by one.
  void skip_to(std::int64_t step);

  // InputError, naming source, step and epochs, where the updates up to `total_steps` would need more than max_repeats of a source.
  void check_supply(std::int64_t total_steps) const;
  // What was taken of each source up to here, in config order.
  std::vector<SourceUse> use() const;

  std::int64_t in_step() const { return position_.in_step; }
  LoaderPosition position() const;
  // Another config's position is taken as a branch: sources are known by name and new ones begin at 0; the mixture counts anew where its
  // weights differ. DamagedError where the numbers cannot be those of any run.
  void seek(const LoaderPosition& position);

 private:
  struct Phase {
    std::int64_t from_step = 0;
    Mixture mixture;                  // as it is at the phase's start
    std::optional<MixtureRamp> ramp;  // its weights, update by update
  };

  std::vector<SampledSource> sources_;
  std::int64_t length_, per_step_;
  std::vector<Phase> phases_;

  LoaderPosition position_;  // `drawn` stays empty: the mixture knows it
  std::size_t phase_ = 0;
  Mixture mixture_;

  void add_phase(const PhaseConfig& config);
  std::size_t phase_at(std::int64_t step) const;
  // The end of the updates over which the weights stay as they are at the next one.
  std::int64_t constant_until() const;
  void begin_step();
  bool over_limit(std::size_t source, std::int64_t tokens) const;
  [[noreturn]] void runs_out(std::size_t source, std::int64_t step) const;
  void continue_mixture(const LoaderPosition& position);
};

}  // namespace meristem
