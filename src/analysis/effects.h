// What a call is worth to later calls and later tokens (Csordás et al., 2505.13898): its contribution is taken away at the tokens before a
// boundary, and what changes at and behind the boundary is measured. The first token is never intervened on.
//   future   the call, or one of its mixers, leaves the stream as it was; what follows runs on with that
//   local    nothing runs on: each later call reads its true input less the contribution, so that the effect is a direct one
// The change of a call is |D - D'| / max(|D|, 1e-6) with D what it adds to the stream, the largest over tokens and boundaries.
#pragma once

#include "analysis/recording.h"

namespace meristem {

// Boundaries t, 0 < t < tokens: `most` of 8, 16, … below tokens - 4, drawn by seed and text, in order; fewer where there are fewer.
std::vector<std::int64_t> boundaries_of(std::int64_t tokens, std::size_t text, std::uint64_t seed, std::size_t most = 4);
inline constexpr std::size_t kLeastForBoundary = 13;  // tokens

enum class Effect { kFuture, kLocal };

// Changes [texts, skipped call, changed call], NaN where the changed call is not a later one; variants by mixer. With kFuture also
// `outputs`: |p - p'| of the next token's probabilities, the largest over tokens from the boundary on and over boundaries: [texts, skipped
// call].
struct Effects {
  Measured changes, outputs;
};
Effects measure_effects(const Subject& subject, Effect effect, const std::vector<TokenIds>& texts,
                        const std::vector<std::vector<std::int64_t>>& boundaries, Work& work);
// Passes that it will take.
std::int64_t effect_passes(const Subject& subject, const std::vector<std::vector<std::int64_t>>& boundaries);

}  // namespace meristem
