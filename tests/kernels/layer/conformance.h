// One kernel a primitive of the device layer, of one warp: words in, words out. The same source runs on a GPU and on the CPU layer; equal
// words say that both sides read the PTX ISA as the hardware does. Values are small integers in bf16, so that no rounding interferes.
#pragma once

#include "device/layer.h"

namespace meristem::kernels::conformance {

using device::Registers;

struct Words {
  const std::uint32_t* in;  // kWordsIn
  std::uint32_t* out;       // kWordsOut
};
inline constexpr int kWordsIn = 1024, kWordsOut = 512, kSharedBytes = 4096;

MERISTEM_DEVICE std::uint32_t input(const Words& words, int i) {
  return device::ldg<std::uint32_t>(device::gptr<const std::uint32_t>(words.in) + i);
}
MERISTEM_DEVICE void output(const Words& words, int i, std::uint32_t value) {
  device::stg(device::gptr<std::uint32_t>(words.out) + i, value);
}
MERISTEM_DEVICE device::SharedAddress row_of_lane() {
  return device::shared_base() + static_cast<device::SharedAddress>(device::lane_index()) * 16;
}

// The first 512 bytes of input into shared memory, lane l's 16 bytes at row l.
MERISTEM_DEVICE void fill_rows(const Words& words) {
  device::Vec4 row;
  for (int i = 0; i < 4; ++i) row.x[i] = input(words, 4 * device::lane_index() + i);
  device::sts(row_of_lane(), row);
  device::warp_sync();
}
MERISTEM_DEVICE void output_fragment(const Words& words, const Registers<std::uint32_t, 4>& fragment) {
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) output(words, 4 * device::lane_index() + i, fragment[i]);
}

MERISTEM_KERNEL(32, 1) ldmatrix_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  fill_rows(words);
  Registers<std::uint32_t, 4> fragment;
  device::ldmatrix_x4(fragment, row_of_lane());
  output_fragment(words, fragment);
}

MERISTEM_KERNEL(32, 1) ldmatrix_trans_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  fill_rows(words);
  Registers<std::uint32_t, 4> fragment;
  device::ldmatrix_x4_trans(fragment, row_of_lane());
  output_fragment(words, fragment);
}

// The accumulators' bits.
MERISTEM_KERNEL(32, 1) mma_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  Registers<std::uint32_t, 4> a, bits;
  Registers<float, 4> c;
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) {
    a[i] = input(words, 8 * lane + i);
    c[i] = device::low_bf16(input(words, 8 * lane + 6));
  }
  device::mma_m16n8k16(c, a, input(words, 8 * lane + 4), input(words, 8 * lane + 5));
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) bits[i] = device::pack_bf16(c[i], -c[i]);
  output_fragment(words, bits);
}

MERISTEM_KERNEL(32, 1) shuffle_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  const std::uint32_t mine = input(words, lane);
  output(words, lane, device::shuffle(mine, (7 * lane + 3) % 32));
  output(words, 32 + lane, device::shuffle_xor(mine, 5));
  output(words, 64 + lane, device::shuffle_down(mine, 9));
  output(words, 96 + lane, device::ballot(mine % 3 == 0));
  output(words, 128 + lane, (device::any(mine == input(words, 0)) ? 1u : 0u) + (device::all(mine < 0xFFFF0000u) ? 2u : 0u));
}

// Two groups, waited for one after the other; every third copy is zeros.
MERISTEM_KERNEL(32, 1) cp_async_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  const device::gptr<const std::uint32_t> in(words.in);
  for (int group = 0; group < 2; ++group) {
    device::cp_async_16(row_of_lane() + static_cast<device::SharedAddress>(512 * group), in + (128 * group + 4 * lane),
                        (lane + group) % 3 != 0);
    device::cp_async_commit();
  }
  device::cp_async_wait<1>();
  device::warp_sync();
  for (int i = 0; i < 4; ++i)
    output(words, 32 * i + lane,
           device::lds<std::uint32_t>(device::shared_base() + static_cast<device::SharedAddress>(128 * i + 4 * lane)));
  device::cp_async_wait<0>();
  device::warp_sync();
  for (int i = 4; i < 8; ++i)
    output(words, 32 * i + lane,
           device::lds<std::uint32_t>(device::shared_base() + static_cast<device::SharedAddress>(128 * i + 4 * lane)));
}

// Rounding to bf16, ties included, and atomics.
MERISTEM_KERNEL(32, 1) bf16_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  const float tie = 1 + static_cast<float>(lane) / 256, number = device::high_bf16(input(words, lane)) / 3;
  output(words, lane, device::pack_bf16(tie, number));
  if (lane == 0) device::sts(device::shared_base(), 0);
  device::warp_sync();
  device::atomic_add_shared(device::shared_base(), lane);
  device::warp_sync();
  output(words, 32 + lane, device::lds<std::uint32_t>(device::shared_base()));
}

struct Primitive {
  const char* name;
  void (*kernel)(Words);
};
inline constexpr Primitive kPrimitives[] = {{"ldmatrix", ldmatrix_kernel}, {"ldmatrix_trans", ldmatrix_trans_kernel},
                                            {"mma", mma_kernel},           {"shuffle", shuffle_kernel},
                                            {"cp_async", cp_async_kernel}, {"bf16", bf16_kernel}};

// Word i of the input: two integers from -8 to 7 in bf16, by a fixed rule.
inline std::uint32_t input_word(int i) {
  std::uint32_t state = static_cast<std::uint32_t>(i) * 2654435761u + 12345u, word = 0;
  for (int half = 0; half < 2; ++half) {
    state = state * 1664525u + 1013904223u;
    const int value = static_cast<int>(state >> 28) - 8, size = value < 0 ? -value : value;
    if (size == 0) continue;
    int exponent = 0;
    while (size >> (exponent + 1) != 0) ++exponent;
    const auto bits = static_cast<std::uint32_t>((127 + exponent) << 7 | ((size << (7 - exponent)) & 0x7F) | (value < 0 ? 0x8000 : 0));
    word |= bits << (16 * half);
  }
  return word;
}

}  // namespace meristem::kernels::conformance
