// Bank conflicts of shared accesses and 32-byte sectors of global ones, counted per line of the kernel's source.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "device/host/checked_memory.h"

namespace meristem::kernels::device::host {

struct LineTraffic {
  std::int64_t shared_accesses = 0;             // of warps
  std::int64_t bank_conflicts = 0;              // extra passes: distinct words of one bank in one pass, less one
  std::int64_t global_accesses = 0;             // of warps
  std::int64_t sectors = 0, ideal_sectors = 0;  // touched, and as few as the bytes could lie in
};

// What the blocks of a test's launches did: tests compare it with what the problem needs, since work on hidden or absent elements changes
// no result. Products and barriers are of warps, copies of lanes; stored and added: bytes written to global memory and added there
// atomically, so that an element that two threads write is noticed.
struct Work {
  std::int64_t blocks = 0, products = 0, copies = 0, barriers = 0, stored = 0;
  std::int64_t exchanges = 0;  // shuffles and votes of warps
  std::int64_t shared = 0;     // bytes of shared memory that a block asked for, summed over the launches
  std::int64_t added = 0;
  friend bool operator==(const Work&, const Work&) = default;
};

// The map's key in the hot path is a line as the compiler names it; `by_line` gives it as "file.h:120".
using Traffic = std::map<std::pair<const char*, unsigned>, LineTraffic>;
std::map<std::string, LineTraffic> by_line(const Traffic& traffic);

// Extra passes of one warp access: addresses[i] of `lanes` lanes, `bytes` (1 to 16) each. A pass serves 128 bytes: 32 lanes of up to
// 4 bytes, 16 of 8, 8 of 16; lanes that read the same word share it.
int bank_conflicts(const std::uint64_t* addresses, std::uint32_t active, int bytes);

// Gathers the single accesses of a warp's lanes into warp accesses: the k-th of each lane at one line since the warp last met.
class WarpTraffic {
 public:
  void access(Traffic& traffic, const Site& site, int lane, std::uint64_t address, int bytes, bool shared);
  void meet(Traffic& traffic);  // counts what is open

 private:
  struct Open {
    Site site;
    std::uint32_t active;
    int bytes;
    bool shared;
    std::uint64_t address[32];
  };
  static void count(Traffic& traffic, const Open& open);
  std::vector<Open> open_;
};

}  // namespace meristem::kernels::device::host
