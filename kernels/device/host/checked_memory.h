// What the checks find, and the memories that they watch: shared memory, with a vector clock a warp, and global memory's buffers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/base.h"

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

// A launch throws the first one; it names the site in the kernel's source.
struct Report : std::runtime_error {
  Report(Fault kind, const std::string& text) : std::runtime_error(text), fault(kind) {}
  Fault fault;
};

// "forward.h:120"
inline std::string name_of(const Site& site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

inline constexpr int kMaxWarps = 32;

// Who has seen what: a vector clock a warp. Everything that orders accesses on the device orders whole warps, so lanes share one.
class Clocks {
 public:
  using Vector = std::array<std::uint32_t, kMaxWarps>;

  Clocks() { reset(); }
  void reset() {
    for (Vector& seen : seen_) seen.fill(0);
    for (int warp = 0; warp < kMaxWarps; ++warp) seen_[static_cast<std::size_t>(warp)][static_cast<std::size_t>(warp)] = 1;
  }

  // The stamp of what `warp` does now. It grows at each of the warp's synchronisations.
  std::uint32_t now(int warp) const { return seen(warp, warp); }
  // Whether what `other` did at `stamp` comes before what `warp` does now; for its own past, another lane's included.
  bool ordered(int warp, int other, std::uint32_t stamp) const { return warp == other ? stamp < now(warp) : stamp <= seen(warp, other); }

  void synchronise_warp(int warp) { ++seen_[static_cast<std::size_t>(warp)][static_cast<std::size_t>(warp)]; }
  const Vector& vector(int warp) const { return seen_[static_cast<std::size_t>(warp)]; }
  void acquire(int warp, const Vector& from) {
    for (std::size_t i = 0; i < kMaxWarps; ++i) {
      if (static_cast<int>(i) != warp && from[i] > seen_[static_cast<std::size_t>(warp)][i])
        seen_[static_cast<std::size_t>(warp)][i] = from[i];
    }
  }

 private:
  std::uint32_t seen(int warp, int other) const { return seen_[static_cast<std::size_t>(warp)][static_cast<std::size_t>(other)]; }
  std::array<Vector, kMaxWarps> seen_;
};

// Who touches the memory: one lane, or a warp as a whole (ldmatrix, whose reads are over for all lanes once the instruction is).
struct Actor {
  int thread;
  bool whole_warp = false;
  int warp() const { return thread / kWarp; }
};

// A block's shared memory with a shadow word for each four bytes: who wrote and read it last and when, and whether a copy is on its way.
class SharedMemory {
 public:
  static constexpr SharedAddress kBase = 1024;   // not zero, so that a forgotten base is out of bounds
  static constexpr std::uint8_t kPoison = 0xFF;  // a NaN in bf16 and fp32

  SharedMemory(const Clocks& clocks, int bytes, int threads, bool detect);

  // Each checks bounds and alignment, then races (unless detection is off), and throws a Report.
  const void* read(SharedAddress from, int bytes, Actor actor, const Site& site);
  void* write(SharedAddress to, int bytes, Actor actor, const Site& site, bool atomic = false);
  // An asynchronous copy of 4 or 16 bytes by `thread`: until it lands the bytes are poison and nobody may touch them.
  void begin_copy(SharedAddress to, int bytes, int thread, const Site& site);
  void land_copy(SharedAddress to, int bytes, int thread, const Vec4& value);

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

// The device's global memory: buffers that a pointer belongs to for good, however far arithmetic takes it.
struct Range {
  std::uintptr_t begin = 0, end = 0;
};

// Buffers register themselves; a pointer into none of them has the empty range, and its first use is a fault.
class GlobalMemory {
 public:
  static GlobalMemory& instance();
  void add(const void* begin, std::size_t bytes);
  void remove(const void* begin);
  Range range_of(const void* pointer) const;

 private:
  std::map<std::uintptr_t, std::uintptr_t> ranges_;  // end by begin
};

// A buffer of the test's, filled with poison (0xFF) and followed by nothing that a kernel could reach. Pages are taken when touched, so it
// may be larger than memory.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes, bool poison = true);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
  std::size_t bytes_;
};

template <class T>
class Array : public Buffer {
 public:
  explicit Array(std::size_t count, bool poison = true) : Buffer(count * sizeof(T), poison), count_(count) {}
  T* data() const { return static_cast<T*>(Buffer::data()); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + count_; }

 private:
  std::size_t count_;
};

}  // namespace meristem::kernels::device::host
