// The rules between keys, and the defaults that follow from other values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "config/run_config.h"
#include "core/errors.h"

namespace meristem {

// Fills what was left to be derived and checks everything that no single key can. InputError "key.path: found X; allowed Y".
void resolve_and_validate(RunConfig& config);

// ---- Its parts, in the order in which they are called; a step beyond the run is a mistake of the key that names it.

void resolve_model(ModelConfig& model);
// After the schedule's and the phases' own checks: what changes the depth of a run over time.
void check_loop(const RunConfig& config);
void check_growth(RunConfig& config);
void check_phase_plans(RunConfig& config);
// The plans as they will run: their lengths, and whether a truncation ever truncates.
void check_repeats(const RunConfig& config);

// inserted: silent promises that the model computes after a growth from `before` to `plan` what it did: InputError under `key` where it
// could not.
void check_silent_growth(const ModelConfig& model, const DepthPlan& before, const DepthPlan& plan,
                         const std::vector<std::int64_t>& source_of, const std::string& key);

// Where a growth would copy a block with RoPE, or with a window, into the place of one without it, or the other way round: InputError
// under `key`.
void refuse_mixed_blocks(const AttentionConfig& attention, const std::vector<std::int64_t>& source_of, const std::string& key);

// How they say no.
template <class... Arguments>
[[noreturn]] void refuse(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw InputError(fmt::format(text, std::forward<Arguments>(arguments)...));
}

}  // namespace meristem
