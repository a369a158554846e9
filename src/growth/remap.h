// Applies a growth map to named tensors: weights and optimizer state go through the same function, since both are named by block.
#pragma once

#include <string>

#include "core/named_tensors.h"
#include "depth/growth.h"

namespace meristem {

// Tensors of block i of the result are copies of those of block source_of[i]; all other tensors are copied. A block's name part is
// "blocks.<i>." at the start of the name or behind a dot ("exp_avg.blocks.3.…", "step.blocks.3.decay"). Every tensor of the result has
// storage of its own: nothing is tied, neither to another nor to the old ones. Order: by the old order, blocks ascending.
// InputError where a source block has no tensors or the blocks' tensors differ in kind.
NamedTensors remap(const NamedTensors& old, const SourceMap& source_of);

// `moments: zero`: zeroes exp_avg.*, exp_avg_sq.* and step.* of the inserted copies, in place. `state` is a remapped optimizer state.
void zero_inserted_moments(NamedTensors& state, const SourceMap& source_of);

}  // namespace meristem
