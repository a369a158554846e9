// Where a loader stands: plain data that a checkpoint keeps as text. Loaded again, the next sequence is the very next unseen one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace meristem {

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

}  // namespace meristem
