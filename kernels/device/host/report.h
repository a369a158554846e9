// What the checks find. A launch throws the first one; it names the site in the kernel's source.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace meristem::kernels::device::host {

using Site = std::source_location;

enum class Fault {
  kRace,        // two accesses to shared memory, one a write, with nothing between that orders them
  kInFlight,    // shared memory touched while an asynchronous copy writes it, or a thread that ends before its copies landed
  kBounds,      // outside a buffer, the block's shared memory or a register array
  kMisaligned,  // an address that the instruction does not take
  kDivergence,  // lanes of one warp at different collectives, or gone
  kDeadlock,    // threads wait and nobody can wake them
};

struct Report : std::runtime_error {
  Report(Fault kind, const std::string& text) : std::runtime_error(text), fault(kind) {}
  Fault fault;
};

// "forward.h:120"
inline std::string name_of(const Site& site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

}  // namespace meristem::kernels::device::host
