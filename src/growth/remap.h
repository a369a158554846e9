// Applies a growth map to named tensors: weights and optimizer state go through the same function, since both are named by block.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/named_tensors.h"
#include "depth/growth.h"

namespace meristem {

// Tensors of block i of the result are copies of those of block source_of[i]; all other tensors are copied. A block's name part is
// "<block_prefix>.<i>." at the start of the name or behind a dot ("exp_avg.blocks.3.…", "step.blocks.3.decay"). Shapes, dtypes and devices
// stay. Every tensor of the result is assigned exactly once and has contiguous storage of its own: nothing is tied, neither to another
// tensor of the result nor to an old one. Order: the old one, with all blocks, ascending, where the first of them stood.
// InputError where the map does not fit the blocks, where a block lacks a tensor that others have, or where a block is misnumbered
// ("blocks.01.", "blocks.-1."): the names come from files.
NamedTensors remap(const NamedTensors& old, const SourceMap& source_of, std::string_view block_prefix = "blocks");

// `moments: zero`: zeroes in place what the inserted copies have under one of `prefixes` ("exp_avg."), and nothing else. `state` is an
// optimizer state that remap returned for the same map, `prefixes` what that optimizer keeps; InputError where it has other blocks.
void zero_inserted_moments(NamedTensors& state, const SourceMap& source_of, const std::vector<std::string>& prefixes,
                           std::string_view block_prefix = "blocks");

}  // namespace meristem
