// Plain types that both sides of the layer share.
#pragma once

#include <cstdint>

namespace meristem::kernels::device {

inline constexpr int kWarp = 32;  // lanes
inline constexpr std::uint32_t kAllLanes = 0xFFFFFFFFu;

using SharedAddress = std::uint32_t;  // bytes in the block's shared-memory window

// What one 16-byte access moves.
struct alignas(16) Vec4 {
  std::uint32_t x[4];
};
struct alignas(8) Vec2 {
  std::uint32_t x[2];
};

}  // namespace meristem::kernels::device
