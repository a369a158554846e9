#include "metrics/memory.h"

#include <malloc.h>

#include <fstream>
#include <string>

namespace meristem {

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    // "VmHWM:	  123456 kB"
    if (line.starts_with("VmRSS:")) memory.resident_bytes = std::stoll(line.substr(6)) * 1024;
    if (line.starts_with("VmHWM:")) memory.peak_bytes = std::stoll(line.substr(6)) * 1024;
  }
  return memory;
}

void forget_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // proc(5): resets the peak resident set
}

}  // namespace meristem
