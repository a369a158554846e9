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

}  // namespace meristem
