// How much of its time a device did nothing.
#pragma once

#include <cstdint>
#include <vector>

namespace meristem {

// From begin to before end, in nanoseconds.
struct BusyInterval {
  std::int64_t begin, end;
};

// The share of the time between the first begin and the last end in which none of the intervals runs: 0 to 1. They may overlap, as streams'
// do, and come in any order. 0 where there are none.
double idle_share(std::vector<BusyInterval> busy);

}  // namespace meristem
