// Who has seen what: a vector clock a warp. Everything that orders accesses on the device orders whole warps, so lanes share one.
#pragma once

#include <array>
#include <cstdint>

namespace meristem::kernels::device::host {

inline constexpr int kMaxWarps = 32;

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

}  // namespace meristem::kernels::device::host
