#include "metrics/memory.h"

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

}  // namespace meristem
