// Best-fit-decreasing packing (2404.10830): documents into rows of a fixed capacity, each where it leaves the least room.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace meristem {

using PackedDocuments = std::vector<std::vector<std::int64_t>>;  // the documents of each row, in the order in which they stand in it

// Packs documents 0 .. count-1 of lengths length(d), cut to `capacity`, the longest first; empty ones are left out. Among equal lengths
// the one of the lowest place goes first: place p holds document at(p). The lengths in each row do not depend on at(), so neither does the
// number of rows. Time count * log(capacity).
PackedDocuments best_fit_decreasing(std::int64_t count, std::int64_t capacity, const std::function<std::int64_t(std::int64_t)>& length,
                                    const std::function<std::int64_t(std::int64_t)>& at);

}  // namespace meristem
