// What can be said of the attention kernels' source without running one.
#pragma once

#include <string>

namespace meristem::test {

std::string wrong_places();  // the window's limits and whether a tile needs the mask; empty: as they should be
std::string wrong_sizes();   // shared memory that a block asks for

}  // namespace meristem::test
