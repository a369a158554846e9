// Kernels that use every primitive of the device layer: words in, words out. The same source runs on a GPU and on the CPU layer; equal
// words say that both sides read the PTX ISA as the hardware does. Values are small integers in bf16, so that no rounding interferes.
#pragma once

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

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

// Where one stands, in two blocks of two warps; values through shared memory and a barrier of the whole block.
MERISTEM_KERNEL(64, 1) threads_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int thread = device::thread_index(), at = 64 * device::block_index() + thread;
  const auto slot = [](int i) { return device::shared_base() + static_cast<device::SharedAddress>(4 * i); };
  device::sts(slot(thread), static_cast<std::uint32_t>(1000 * device::warp_index() + device::lane_index()));
  device::barrier();
  output(words, at, device::lds<std::uint32_t>(slot(63 - thread)) + static_cast<std::uint32_t>(10000 * device::block_count()));
  device::atomic_add(device::gptr<int>(reinterpret_cast<int*>(words.out)) + 128, thread + device::block_index());
}

// One warp waits for what the other has written, and the other way round.
MERISTEM_KERNEL(64, 1) named_barrier_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const auto slot = [](int i) { return device::shared_base() + static_cast<device::SharedAddress>(4 * i); };
  if (warp == 1) {
    device::sts(slot(lane), input(words, lane));
    device::named_barrier_arrive(1, 64);
    device::named_barrier_sync(2, 64);
    output(words, 32 + lane, device::lds<std::uint32_t>(slot(32 + (lane + 5) % 32)));
  } else {
    device::named_barrier_sync(1, 64);
    const auto other = device::lds<std::uint32_t>(slot((lane + 3) % 32));
    output(words, lane, other);
    device::sts(slot(32 + lane), other + 1);
    device::named_barrier_arrive(2, 64);
  }
}

// The ways to and from memory: 4, 8 and 16 bytes, streaming ones, and what is added atomically.
MERISTEM_KERNEL(32, 1) memory_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  const device::SharedAddress mine = row_of_lane(), sum = device::shared_base() + 1024;
  const device::gptr<const std::uint32_t> in(words.in);
  const device::gptr<std::uint32_t> out(words.out);
  device::stg_streaming(out + 4 * lane, device::ldg_streaming(in + 4 * lane));
  device::sts(mine, static_cast<double>(lane) / 3);
  device::warp_sync();
  output(words, 128 + lane, device::as_word(static_cast<float>(device::lds<double>(mine)) + device::lds<device::float2>(mine).x));
  device::warp_sync();
  device::sts(mine, device::as_float(input(words, lane)));
  device::sts(mine + 4, -lane);
  device::warp_sync();
  output(words, 160 + lane, device::as_word(device::lds<float>(mine)) + static_cast<std::uint32_t>(device::lds<int>(mine + 4)));
  if (lane == 0) device::sts(sum, 0.0f);
  device::warp_sync();
  device::atomic_add_shared(sum, static_cast<float>(lane) / 4);
  device::warp_sync();
  output(words, 192 + lane, device::as_word(device::lds<float>(sum)));
  device::atomic_add(device::gptr<float>(reinterpret_cast<float*>(words.out)) + 224, static_cast<float>(lane) / 8);
  output(words, 256 + lane, static_cast<std::uint32_t>(device::count_bits(input(words, lane))));
  device::atomic_add_2(device::gptr<float>(reinterpret_cast<float*>(words.out)) + 288, static_cast<float>(lane) / 8, 1);
  device::cp_async_4(mine, in + (64 + lane), lane % 3 != 0);
  device::cp_async_commit();
  device::cp_async_wait<0>();
  device::warp_sync();
  output(words, 320 + lane, device::lds<std::uint32_t>(mine));
}

// Each lane's 16 bytes as a row of the four matrices, and back.
MERISTEM_KERNEL(32, 1) stmatrix_kernel(const MERISTEM_GRID_CONSTANT Words words) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  Registers<std::uint32_t, 4> fragment;
  MERISTEM_UNROLL
  for (int i = 0; i < 4; ++i) fragment[i] = input(words, 4 * device::lane_index() + i);
  device::stmatrix_x4(row_of_lane(), fragment);
  device::warp_sync();
  const auto row = device::lds<device::Vec4>(row_of_lane());
  for (int i = 0; i < 4; ++i) output(words, 4 * device::lane_index() + i, row.x[i]);
#else
  output(words, 0, 0);
#endif
}

// Numbers from 2^-6 to 2^6 and beyond, and what lies at the ends; each function's approximation has its own bound.
MERISTEM_DEVICE float number_of_lane(int i) { return device::exp_accurate(static_cast<float>(device::lane_index() + 32 * i) / 8 - 3.9f); }

MERISTEM_KERNEL(32, 1) exp2_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  output(words, lane, device::as_word(device::exp2_fast(static_cast<float>(lane) * 0.7f - 11)));
  output(words, 32 + lane, device::as_word(device::exp2_fast(static_cast<float>(lane) * 7.3f - 120)));
  output(words, 64 + lane, device::as_word(device::exp2_fast(lane < 16 ? -device::infinity() : 0.0f)));
}
MERISTEM_KERNEL(32, 1) log_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  for (int i = 0; i < 2; ++i) output(words, 32 * i + device::lane_index(), device::as_word(device::log_fast(2 + number_of_lane(i))));
}
MERISTEM_KERNEL(32, 1) divide_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  for (int i = 0; i < 2; ++i)
    output(words, 32 * i + lane, device::as_word(device::divide_fast(1 + static_cast<float>(lane), number_of_lane(i))));
  output(words, 64 + lane, device::as_word(device::divide_fast(static_cast<float>(lane), device::infinity())));
}
MERISTEM_KERNEL(32, 1) accurate_kernel(const MERISTEM_GRID_CONSTANT Words words) {
  const int lane = device::lane_index();
  output(words, lane, device::as_word(number_of_lane(0)));
  output(words, 32 + lane, device::as_word(device::log_accurate(2 + static_cast<float>(lane))));
  output(words, 64 + lane, device::as_word(device::square_root(static_cast<float>(lane))));
  output(words, 96 + lane, device::as_word(device::larger(static_cast<float>(lane % 5), static_cast<float>(lane % 3))));
  output(words, 128 + lane, device::as_word(device::larger(device::infinity() - device::infinity(), static_cast<float>(lane))));
}

struct Primitive {
  const char* name;
  void (*kernel)(Words);
  int blocks = 1, threads = 32;
  int ulps = 0;         // how far words, as floats, may be from golden.txt's
  int capability = 80;  // of the least device that has it
};
inline constexpr Primitive kPrimitives[] = {{"ldmatrix", ldmatrix_kernel},
                                            {"ldmatrix_trans", ldmatrix_trans_kernel},
                                            {"stmatrix", stmatrix_kernel, 1, 32, 0, 90},
                                            {"mma", mma_kernel},
                                            {"shuffle", shuffle_kernel},
                                            {"threads", threads_kernel, 2, 64},
                                            {"named_barrier", named_barrier_kernel, 1, 64},
                                            {"memory", memory_kernel},
                                            {"cp_async", cp_async_kernel},
                                            {"bf16", bf16_kernel},
                                            {"exp2_fast", exp2_kernel, 1, 32, 3},
                                            {"log_fast", log_kernel, 1, 32, 5},
                                            {"divide_fast", divide_kernel, 1, 32, 4},
                                            {"accurate", accurate_kernel, 1, 32, 2}};

// The words that golden.txt holds, by primitive: what the CPU layer makes of the PTX ISA's words. A line: the name, then the words; '#': a
// comment.
inline std::map<std::string, std::vector<std::uint32_t>> read_golden(const char* path) {
  std::map<std::string, std::vector<std::uint32_t>> found;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind('#', 0) == 0) continue;
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    for (std::string word; fields >> word;) found[name].push_back(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)));
    if (found[name].size() < kWordsOut) found[name].resize(kWordsOut);
  }
  return found;
}

// Floats in a row of their own: neighbours differ by one, and so do the words of neighbours of equal sign.
inline std::int64_t place_of(std::uint32_t word) {
  const auto size = static_cast<std::int64_t>(word & 0x7FFFFFFFu);
  return (word & 0x80000000u) != 0 ? -size : size;
}

// How many words differ by more than `ulps`; all that one side alone has.
inline int different(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b, int ulps) {
  if (a.size() != b.size()) return static_cast<int>(a.size() > b.size() ? a.size() : b.size());
  int count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const std::int64_t apart = place_of(a[i]) - place_of(b[i]);
    if (ulps == 0 ? a[i] != b[i] : apart > ulps || -apart > ulps) ++count;
  }
  return count;
}

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
