// Growth operators and schedules (docs/growth.md). An operator maps L blocks to more and returns source_of: new block i starts as a copy
// of old block source_of[i]. Sources: MIDAS 2409.19044; LIDAS 2512.08819.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/choice.h"

namespace meristem {

using SourceMap = std::vector<std::int64_t>;

// map: the source_of of each growth is given, not made by an operator.
enum class GrowthOperator { kMidas, kLidas, kAppend, kStack, kMap };
constexpr auto words_of(GrowthOperator) { return std::array{"midas", "lidas", "append", "stack", "map"}; }
// Of those that make their maps. InputError lists the known names, and the one that may have been meant.
GrowthOperator parse_growth_operator(std::string_view name);

// source_of for growing `blocks` by `add`. MIDAS needs add to divide blocks; every operator needs 1 <= add <= blocks; stack needs
// add == blocks. InputError says which rule was broken.
SourceMap grow_map(GrowthOperator op, std::int64_t blocks, std::int64_t add);

// InputError unless the map is usable on `blocks` blocks: non-empty, every entry in range, every old block used at least once.
void check_source_map(const SourceMap& source_of, std::int64_t blocks);

// For each new block whether it is an inserted copy: the first occurrence of a source is the original, later ones are inserted.
// Expects a map that check_source_map accepts.
std::vector<bool> inserted_blocks(const SourceMap& source_of);

// Whether `calls` without those of the inserted blocks are `before`, the calls from which the model grew: then a model whose inserted
// blocks add nothing computes what it did. Expects a map that check_source_map accepts.
bool same_calls_without_inserted(const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& calls,
                                 const SourceMap& source_of);

// PROP-alpha: `stages` lengths in steps or tokens that sum to `total`, stage i (from 1) in proportion to i^alpha; largest remainder, ties
// to the lower stage. A short total gives stages of length 0: whoever needs every stage to be trained checks that. InputError for a
// negative total, for no stage, and for an alpha whose powers are not finite numbers.
std::vector<std::int64_t> prop_stage_lengths(std::int64_t total, std::int64_t stages, double alpha);

}  // namespace meristem
