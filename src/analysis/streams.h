// What can be read off a text's way through the calls without changing anything, and off the weights.
#pragma once

#include "analysis/recording.h"

namespace meristem {

// Means over the tokens of a text.
//   norms           |what a call adds| / |its input|, [calls]; by mixer: |what it adds| / |what it read|
//   cosines         between the same pairs
//   residual_norm   |h|: [1 + calls], after the embedding and after each call
Measurements measure_norms(const Subject& subject, const Recording& recording);

// Of models with experts, of a text.
//   expert_diversity  different experts of a token / (k R), []: (block, expert) pairs over the calls that have experts
//   expert_overlap    Jaccard overlap of a token's experts in two calls of one block, [calls, calls]; NaN elsewhere
//   expert_counts     tokens that chose each expert, [calls, experts]; NaN in calls without
// With `by chance` the first two have what they would be if each call drew its k experts without looking.
Measurements measure_experts(const Subject& subject, const Recording& recording);

// depth_attention_weights: means over tokens and heads, [calls, entries of the depth's memory]; NaN where there is none. Empty without any.
Measurements measure_depth_attention(const Subject& subject, const Recording& recording);

// Products between the blocks' weights: [blocks, blocks], matrices of mixers alone; variants by mixer. Cosines follow from them.
Measured weight_products(const Model& model);

}  // namespace meristem
