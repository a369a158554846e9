// state.json: everything of a run that is not a tensor, as plain data.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace meristem {

class JsonCursor;

// 2: the optimizer's tensors are in several files. 3: state.json counts what the tokens were. A manifest is of version 1 or 2.
inline constexpr int kCheckpointFormatVersion = 3;
inline constexpr int kSeveralWritersVersion = 2;

// The format_version of a checkpoint's document: InputError, naming both versions, where this program is too old for it.
int read_format_version(const JsonCursor& json, const std::string& origin);

struct GrowthEvent {
  std::int64_t step = 0;
  std::int64_t from_blocks = 0, to_blocks = 0;
  std::string op;                       // "lidas", "midas", …
  std::vector<std::int64_t> source_of;  // [to_blocks], each in [0, from_blocks)
  bool operator==(const GrowthEvent&) const = default;
};

// What early_stop has seen so far.
struct EarlyStopState {
  double best_loss = 0;                  // finite
  std::int64_t best_step = 0;            // its checkpoint is kept
  std::int64_t without_improvement = 0;  // validations since
  bool operator==(const EarlyStopState&) const = default;
};

// What of the tokens seen was worth something, and what they cost.
struct TokenCounts {
  std::int64_t real_tokens = 0;     // inputs that are no padding
  std::int64_t trained_tokens = 0;  // targets that counted in the loss
  double flops = 0;                 // of training; finite
  bool operator==(const TokenCounts&) const = default;
};

struct TrainState {
  int format_version = kCheckpointFormatVersion;      // of a checkpoint that was read: its own
  std::int64_t step = 0;                              // optimizer updates done
  std::int64_t tokens = 0;                            // input positions seen
  std::optional<TokenCounts> counts = TokenCounts{};  // nothing in a run that an earlier version began: it has not counted
  std::int64_t seed = 0;   // all random numbers are functions of (seed, counter): this and the step are the RNG's state
  std::string depth_plan;  // text form
  std::int64_t blocks = 0;
  std::vector<GrowthEvent> growth_history;
  std::string loader;  // LoaderPosition as JSON text; kept as it is
  std::string config_yaml, config_hash;
  std::vector<double> recent_losses, recent_grad_norms;  // window of the spike detector, oldest first; finite
  std::optional<EarlyStopState> early_stop;              // nothing before the first validation, or where the config has none
  std::map<std::string, std::string> environment;        // cpu, threads, version, …: compared on resume
  bool operator==(const TrainState&) const = default;
};

// JSON text that reads back equal, doubles bit for bit. InputError where a string is not UTF-8 or a number not finite.
std::string train_state_json(const TrainState& state);

// Strict: an unknown, missing or mistyped key is a DamagedError that names `origin` and the key path; a format version from
// the future is an InputError that names both versions.
TrainState parse_train_state(std::string_view text, const std::string& origin);

}  // namespace meristem
