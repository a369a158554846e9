// A block's shared memory with a shadow word for each four bytes: who wrote and read it last and when, and whether a copy is on its way.
#pragma once

#include <cstdint>
#include <vector>

#include "device/host/clocks.h"
#include "device/host/report.h"
#include "device/types.h"

namespace meristem::kernels::device::host {

// Who touches the memory: one lane, or a warp as a whole (ldmatrix, whose reads are over for all lanes once the instruction is).
struct Actor {
  int thread;
  bool whole_warp = false;
  int warp() const { return thread / kWarp; }
};

class SharedMemory {
 public:
  static constexpr SharedAddress kBase = 1024;   // not zero, so that a forgotten base is out of bounds
  static constexpr std::uint8_t kPoison = 0xFF;  // a NaN in bf16 and fp32

  SharedMemory(const Clocks& clocks, int bytes, int threads, bool detect);

  // Each checks bounds and alignment, then races (unless detection is off), and throws a Report.
  const void* read(SharedAddress from, int bytes, Actor actor, const Site& site);
  void* write(SharedAddress to, int bytes, Actor actor, const Site& site, bool atomic = false);
  // An asynchronous 16-byte copy by `thread`: until it lands the bytes are poison and nobody may touch them.
  void begin_copy(SharedAddress to, int thread, const Site& site);
  void land_copy(SharedAddress to, int thread, const Vec4& value);

 private:
  struct Word {
    std::uint32_t write_stamp = 0;
    std::int16_t writer = -1;
    bool atomic = false, whole_warp = false;
    std::int16_t copier = -1;
    std::int16_t write_site = 0, read_site = 0;
  };
  void check_range(SharedAddress at, int bytes, const Site& site) const;
  std::size_t word_of(SharedAddress at) const { return (at - kBase) / 4; }
  std::uint32_t& last_read(std::size_t word, int warp) {
    return reads_[word * static_cast<std::size_t>(warps_) + static_cast<std::size_t>(warp)];
  }
  void check_not_in_flight(std::size_t word, Actor actor, const Site& site) const;
  void check_after_write(std::size_t word, Actor actor, const Site& site, bool atomic) const;
  void check_after_reads(std::size_t word, Actor actor, const Site& site);
  void note_read(std::size_t word, Actor actor, std::int16_t site);
  std::int16_t intern(const Site& site);
  [[noreturn]] void race(std::size_t word, int first_thread, std::int16_t first_site, const char* first, Actor actor, const Site& site,
                         const char* second) const;

  const Clocks& clocks_;
  std::vector<Vec4> bytes_;
  std::vector<Word> words_;
  std::vector<std::uint32_t> reads_;  // by word and warp: stamp * 64 + lane, kManyLanes or kWholeWarp
  std::vector<Site> sites_;
  int size_, warps_;
  bool detect_;
};

}  // namespace meristem::kernels::device::host
