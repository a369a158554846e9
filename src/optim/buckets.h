// The flat buffers cut up for ranks that train together: buckets, whose gradients travel at once, and the pieces that each rank owns of
// them. Follows from the layout, the number of ranks and the bucket's size alone, so all ranks cut alike.
#pragma once

#include <cstdint>
#include <vector>

#include "optim/flat_parameters.h"

namespace meristem {

struct FlatBucket {
  UpdateRule rule = UpdateRule::kAdamw;
  std::int64_t offset = 0, count = 0;
  std::int64_t first_part = kLastPart;  // that reads a parameter in it
  // Side by side, all of the bucket. AdamW works element by element: one piece a rank, all of one size, in the order of ranks. Muon needs
  // whole matrices: a piece for each matrix (experts: a few of them together), which the rank has that had the least work so far.
  std::vector<FlatPiece> pieces;
  std::vector<std::size_t> entries;  // of the layout, that have elements in the bucket and learn
};

// In the order in which backward completes them: the last parameters of the model first. `layout` is padded for so many ranks
// (flat_layout). bucket_mb: of fp32; a bucket of whole matrices may be larger where one matrix is.
std::vector<FlatBucket> buckets_of(const FlatLayout& layout, int ranks, double bucket_mb);

// Multiplications that an orthogonalization of so many matrices takes, up to a factor.
double newton_schulz_work(std::int64_t matrices, std::int64_t rows, std::int64_t columns);

}  // namespace meristem
