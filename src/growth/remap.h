// Applies a growth map to named tensors: weights and optimizer state go through the same function, since both are named by block.
#pragma once

#include <functional>
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

// Zeroes in place those tensors of the inserted copies whose name is `chosen`, and nothing else. `tensors` is what remap returned for the
// same map; InputError where a chosen one is of a block that the map does not have.
// `inserted: silent` chooses the last maps of the mixers (mixer_ends), `moments: zero` what an optimizer keeps (begins_with).
void zero_inserted(NamedTensors& tensors, const SourceMap& source_of, const std::function<bool(const std::string&)>& chosen,
                   std::string_view block_prefix = "blocks");

// Names that begin with one of `prefixes` ("exp_avg.").
std::function<bool(const std::string&)> begins_with(std::vector<std::string> prefixes);

}  // namespace meristem
