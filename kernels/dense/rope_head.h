// What the RoPE kernels are launched with, and how a warp works on the heads of its row: `lanes` neighbours share a head, the warp's groups
// of them take heads in turn. A lane has up to eight pairs; those of access i begin at element (i lanes + lane) V of the first half, their
// partners at the same of the second.
#pragma once

#include "meristem_kernels/rope.h"
#include "rows/elements.h"

namespace meristem::kernels::detail {

// A matrix inside a wider one: row r begins at data + r * stride.
template <class X>
struct RopeRows {
  X* data;
  std::int64_t stride;
};

template <class X>
struct RopeParameters {
  std::int64_t rows;
  int heads, half;  // half: of the head dim
  int lanes;        // of a warp that share a head: a power of two, each with up to 8 pairs
  int columns;      // those from heads * 2 * half on are copied, unless source and destination are one
  bool vectorised;
  const std::int32_t* positions;
  const float *cos, *sin;
  float sign;
  QkNorm norm;          // q_gain null: none
  RopeRows<const X> x;  // what the norm is taken of; without one, what is turned
  RopeRows<const X> dy;
  RopeRows<X> out;  // y or dx
  float* partials;  // [blocks, 2, 2 half]
};

inline constexpr int kRopeThreads = 256, kRopeWarps = kRopeThreads / device::kWarp;
inline constexpr int kRopePairs = 8;  // of a lane

template <class X, int V>
using HalfHead = Held<X, V, kRopePairs>;
using Pairs = device::Registers<float, kRopePairs>;

// Where the lane stands in a row.
template <int V>
struct RopeLane {
  int lanes, half, lane, group;

  template <class X>
  MERISTEM_DEVICE explicit RopeLane(const RopeParameters<X>& p)
      : lanes(p.lanes), half(p.half), lane(device::lane_index() % p.lanes), group(device::lane_index() / p.lanes) {}
  MERISTEM_DEVICE int groups() const { return device::kWarp / lanes; }
  MERISTEM_DEVICE int column(int access) const { return (access * lanes + lane) * V; }  // from `half` on: none
  // The sum over the lanes of a head.
  MERISTEM_DEVICE float sum(float value) const {
    for (int i = lanes / 2; i > 0; i /= 2) value += device::shuffle_xor(value, i);
    return value;
  }
};

// The lane's elements of half a head that begins at `from`, zeros beyond its end or where the lane has no head.
template <int V, class X>
MERISTEM_DEVICE void load_half(HalfHead<X, V>& to, device::gptr<const X> from, const RopeLane<V>& at, bool valid) {
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs / V; ++i) {
    const int column = at.column(i);
    to.raw[i] = valid && column < at.half ? device::ldg<Access<X, V>>(from + column) : Access<X, V>{};
  }
}
template <int V, class X, class Value>
MERISTEM_DEVICE void store_half(device::gptr<X> to, const RopeLane<V>& at, bool valid, const Value& value) {
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs / V; ++i) {
    const int column = at.column(i);
    if (valid && column < at.half) device::stg(to + column, packed<X, V>([&](int j) { return value(i * V + j); }));
  }
}

// Floats that belong to the lane's elements of a half: angles or gains.
template <int V>
MERISTEM_DEVICE void load_pairs(Pairs& to, device::gptr<const float> from, const RopeLane<V>& at) {
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs / V; ++i) {
    Floats<V> few;
    MERISTEM_UNROLL
    for (int j = 0; j < Floats<V>::kAccesses; ++j) few.raw[j] = {};
    if (at.column(i) < at.half) load_floats<V>(few, from + at.column(i));
    MERISTEM_UNROLL
    for (int j = 0; j < V; ++j) to[i * V + j] = few[j];
  }
}

// cos and sign * sin of the row's position.
struct Angles {
  Pairs cos, sin;
};
template <int V, class X>
MERISTEM_DEVICE void load_angles(Angles& to, const RopeParameters<X>& p, std::int64_t row, const RopeLane<V>& at) {
  const std::int64_t position = device::ldg<std::int32_t>(device::gptr<const std::int32_t>(p.positions) + row);
  load_pairs<V>(to.cos, device::gptr<const float>(p.cos) + position * p.half, at);
  load_pairs<V>(to.sin, device::gptr<const float>(p.sin) + position * p.half, at);
  MERISTEM_UNROLL
  for (int i = 0; i < kRopePairs; ++i) to.sin[i] *= p.sign;
}

// The columns behind the heads, from one matrix to the other.
template <int V, class X>
MERISTEM_DEVICE void copy_rest(const RopeParameters<X>& p, const RopeRows<const X>& from, std::int64_t row) {
  if (from.data == p.out.data) return;
  const device::gptr<const X> source = device::gptr<const X>(from.data) + row * from.stride;
  const device::gptr<X> to = device::gptr<X>(p.out.data) + row * p.out.stride;
  for (int column = p.heads * 2 * p.half + device::lane_index() * V; column < p.columns; column += device::kWarp * V)
    device::stg(to + column, device::ldg<Access<X, V>>(source + column));
}

}  // namespace meristem::kernels::detail
