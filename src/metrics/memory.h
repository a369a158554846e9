// Memory of this process as the kernel counts it.
#pragma once

#include <cstdint>

namespace meristem {

struct ProcessMemory {
  std::int64_t resident_bytes = 0;  // now (VmRSS)
  std::int64_t peak_bytes = 0;      // the most it ever was (VmHWM)
};
// Zeros where /proc is missing.
ProcessMemory process_memory();

// Gives freed memory back and forgets the peak so far, which then is what the process holds now. For benchmarks.
void forget_peak_memory();

}  // namespace meristem
