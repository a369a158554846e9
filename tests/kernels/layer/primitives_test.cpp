// Each primitive of the CPU layer against the PTX ISA's own words about who holds what; and every word of the conformance kernels against
// golden.txt, which a GPU is held to as well (conformance_on_gpu.cu).
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "kernels/layer/conformance.h"
#include "kernels/on_cpu.h"
#include "support/catch.h"

using namespace meristem::test;
using dev::kWarp;
using dev::Registers;
namespace conformance = meristem::kernels::conformance;

namespace {

std::uint16_t bf16_number(int value) { return static_cast<std::uint16_t>(dev::bf16_of(static_cast<float>(value))); }
float number_of(std::uint16_t bits) { return dev::low_bf16(bits); }

std::vector<std::uint32_t> words_of(const conformance::Primitive& primitive, std::uint32_t seed) {
  CpuArray<std::uint32_t> in(conformance::kWordsIn), out(conformance::kWordsOut);
  for (int i = 0; i < conformance::kWordsIn; ++i) in[static_cast<std::size_t>(i)] = conformance::input_word(i);
  for (std::uint32_t& word : out) word = 0;
  Grid::current().settings = {};
  Grid::current().settings.seed = seed;
  dev::launch(primitive.name, primitive.kernel, primitive.blocks, primitive.threads, conformance::kSharedBytes, nullptr,
              conformance::Words{in.data(), out.data()});
  return {out.begin(), out.end()};
}

}  // namespace

TEST_CASE("mma m16n8k16 multiplies the matrices that the fragments spell") {
  // "Matrix Fragments for mma.m16n8k16 with floating point type": element i of the fragment of lane 4 * groupID + threadID_in_group.
  std::mt19937 random(3);
  std::array<std::array<int, 16>, 16> a{};
  std::array<std::array<int, 8>, 16> b{}, c{};
  for (auto& row : a)
    for (int& x : row) x = static_cast<int>(random() % 17) - 8;
  for (auto& row : b)
    for (int& x : row) x = static_cast<int>(random() % 17) - 8;
  for (auto& row : c)
    for (int& x : row) x = static_cast<int>(random() % 100);
  std::array<std::array<float, 8>, 16> result{};
  on_cpu(kWarp, 0, [&] {
    const int group = dev::lane_index() >> 2, in_group = dev::lane_index() % 4;
    std::array<std::uint16_t, 8> fragment_a{};
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      fragment_a[static_cast<std::size_t>(i)] = bf16_number(a[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]);
    }
    std::array<std::uint16_t, 4> fragment_b{};
    for (int i = 0; i < 4; ++i) {
      const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      fragment_b[static_cast<std::size_t>(i)] = bf16_number(b[static_cast<std::size_t>(row)][static_cast<std::size_t>(group)]);
    }
    Registers<std::uint32_t, 4> ra;
    for (int i = 0; i < 4; ++i) {
      ra[i] = fragment_a[static_cast<std::size_t>(2 * i)] | static_cast<std::uint32_t>(fragment_a[static_cast<std::size_t>(2 * i + 1)])
                                                                << 16;
    }
    Registers<float, 4> rc;
    for (int i = 0; i < 4; ++i) {
      rc[i] = static_cast<float>(c[static_cast<std::size_t>(group + (i < 2 ? 0 : 8))][static_cast<std::size_t>(in_group * 2 + (i & 1))]);
    }
    dev::mma_m16n8k16(rc, ra, fragment_b[0] | static_cast<std::uint32_t>(fragment_b[1]) << 16,
                      fragment_b[2] | static_cast<std::uint32_t>(fragment_b[3]) << 16);
    for (int i = 0; i < 4; ++i) {
      result[static_cast<std::size_t>(group + (i < 2 ? 0 : 8))][static_cast<std::size_t>(in_group * 2 + (i & 1))] = rc[i];
    }
  });
  for (std::size_t m = 0; m < 16; ++m) {
    for (std::size_t n = 0; n < 8; ++n) {
      int expected = c[m][n];
      for (std::size_t k = 0; k < 16; ++k) expected += a[m][k] * b[k][n];
      CHECK(result[m][n] == static_cast<float>(expected));
    }
  }
}

TEST_CASE("ldmatrix hands each lane two neighbours of a row, transposed of a column") {
  // "each thread holds one fragment of a row": lane l has elements 2 * (l % 4) and the next of row l / 4 of each matrix.
  for (const bool transposed : {false, true}) {
    on_cpu(kWarp, 4 * 8 * 16, [transposed] {
      const int lane = dev::lane_index();
      const dev::SharedAddress base = dev::shared_base();
      // Matrix i, row r, column c holds 100 * i + 8 * r + c; each lane writes the row that it will name.
      const auto row = base + static_cast<std::uint32_t>(lane) * 16;
      dev::Vec4 words{};
      for (int c = 0; c < 8; ++c) {
        words.x[c / 2] |= static_cast<std::uint32_t>(bf16_number(64 * (lane / 8) + 8 * (lane % 8) + c)) << (16 * (c % 2));
      }
      dev::sts(row, words);
      dev::warp_sync();
      Registers<std::uint32_t, 4> fragment;
      if (transposed) {
        dev::ldmatrix_x4_trans(fragment, row);
      } else {
        dev::ldmatrix_x4(fragment, row);
      }
      for (int i = 0; i < 4; ++i) {
        const int first = 2 * (lane % 4), other = lane / 4;
        const int expected_low = 64 * i + (transposed ? 8 * first + other : 8 * other + first);
        const int expected_high = 64 * i + (transposed ? 8 * (first + 1) + other : 8 * other + first + 1);
        CHECK(number_of(static_cast<std::uint16_t>(fragment[i])) == static_cast<float>(expected_low));
        CHECK(number_of(static_cast<std::uint16_t>(fragment[i] >> 16)) == static_cast<float>(expected_high));
      }
    });
  }
}

TEST_CASE("stmatrix undoes ldmatrix") {
  on_cpu(kWarp, 2 * 512, [] {
    const auto lane = static_cast<std::uint32_t>(dev::lane_index());
    dev::sts(dev::shared_base() + lane * 16, dev::Vec4{{lane, lane + 100, lane + 200, lane + 300}});
    dev::warp_sync();
    Registers<std::uint32_t, 4> fragment;
    dev::ldmatrix_x4(fragment, dev::shared_base() + lane * 16);
    dev::stmatrix_x4(dev::shared_base() + 512 + lane * 16, fragment);
    dev::warp_sync();
    const auto words = dev::lds<dev::Vec4>(dev::shared_base() + 512 + lane * 16);
    for (std::uint32_t i = 0; i < 4; ++i) CHECK(words.x[i] == lane + 100 * i);
  });
}

TEST_CASE("shuffles and votes") {
  on_cpu(kWarp, 0, [] {
    const int lane = dev::lane_index();
    CHECK(dev::shuffle(lane, 5) == 5);
    CHECK(dev::shuffle(static_cast<float>(lane), (lane + 1) % 32) == static_cast<float>((lane + 1) % 32));
    CHECK(dev::shuffle_xor(lane, 16) == (lane ^ 16));
    CHECK(dev::shuffle_down(lane, 4) == (lane < 28 ? lane + 4 : lane));
    CHECK(dev::ballot(lane % 2 == 1) == 0xAAAAAAAAu);
    CHECK(dev::any(lane == 7));
    CHECK_FALSE(dev::all(lane != 7));
    CHECK(dev::all(true));
    if (lane < 16) CHECK(dev::shuffle(lane, 3, 0xFFFFu) == 3);
  });
}

TEST_CASE("a copy lands at the wait for its group, and not before") {
  dev::host::Array<std::uint32_t> source(8);
  for (std::uint32_t i = 0; i < 8; ++i) source[i] = 10 + i;
  dev::host::Settings blind;
  blind.detect = false;  // to look at what is in flight
  on_cpu(
      1, 64,
      [&] {
        const dev::SharedAddress base = dev::shared_base();
        const dev::gptr<const std::uint32_t> from(source.data());
        dev::cp_async_16(base, from, true);
        dev::cp_async_commit();
        dev::cp_async_16(base + 16, from + 4, true);
        dev::cp_async_commit();
        dev::cp_async_16(base + 32, from + 1000, false);  // not read
        CHECK(dev::lds<std::uint32_t>(base) == 0xFFFFFFFFu);
        dev::cp_async_wait<1>();
        CHECK(dev::lds<std::uint32_t>(base + 4) == 11);
        CHECK(dev::lds<std::uint32_t>(base + 16) == 0xFFFFFFFFu);
        dev::cp_async_commit();
        dev::cp_async_wait<0>();
        CHECK(dev::lds<std::uint32_t>(base + 28) == 17);
        CHECK(dev::lds<std::uint32_t>(base + 44) == 0);
        dev::sts(base + 52, 5u);
        dev::cp_async_4(base + 48, from + 3, true);  // four bytes, and not one more
        dev::cp_async_4(base + 56, from + 1000, false);
        dev::cp_async_commit();
        CHECK(dev::lds<std::uint32_t>(base + 48) == 0xFFFFFFFFu);
        dev::cp_async_wait<0>();
        CHECK(dev::lds<std::uint32_t>(base + 48) == 13);
        CHECK(dev::lds<std::uint32_t>(base + 52) == 5);
        CHECK(dev::lds<std::uint32_t>(base + 56) == 0);
      },
      blind);
}

TEST_CASE("two neighbours are added to as one access of eight bytes, and counted") {
  dev::host::Array<float> sums(4, /*poison=*/false);
  dev::host::Grid::current().work = {};
  on_cpu(32, 0, [&] { dev::atomic_add_2(dev::gptr<float>(sums.data()) + 2, 1, 0.5f); });
  CHECK((sums[1] == 0 && sums[2] == 32 && sums[3] == 16));
  CHECK(dev::host::Grid::current().work.added == 32 * 8);
  CHECK(found_by(1, 0, [&] { dev::atomic_add_2(dev::gptr<float>(sums.data()) + 1, 1, 1); }).fault == dev::host::Fault::kMisaligned);
}

TEST_CASE("barriers, atomics, and every schedule") {
  for (const std::uint32_t seed : {0u, 1u, 2u, 3u}) {
    dev::host::Settings settings;
    settings.seed = seed;
    dev::host::Array<int> sum(1);
    sum[0] = 0;
    on_cpu(
        96, 16,
        [&] {
          const dev::SharedAddress at = dev::shared_base();
          if (dev::thread_index() == 0) dev::sts(at, 0);
          dev::barrier();
          dev::atomic_add_shared(at, 1);
          dev::barrier();
          CHECK(dev::lds<int>(at) == 96);
          dev::atomic_add(dev::gptr<int>(sum.data()), 2);
          // Two warps hand a number to the third, which waits for them.
          if (dev::warp_index() < 2) {
            if (dev::thread_index() == 33) dev::sts(at + 4, 42);
            dev::named_barrier_arrive(1, 96);
          } else {
            dev::named_barrier_sync(1, 96);
            CHECK(dev::lds<int>(at + 4) == 42);
          }
        },
        settings);
    CHECK(sum[0] == 192);
  }
}

TEST_CASE("bf16 is packed low first and rounded to even") {
  CHECK(dev::pack_bf16(1.0f, 2.0f) == 0x40003F80u);
  CHECK(dev::bf16_of(1.0f + 1.0f / 256) == 0x3F80);
  CHECK(dev::bf16_of(1.0f + 3.0f / 256) == 0x3F82);
  CHECK(dev::high_bf16(0x40003F80u) == 2.0f);
}

TEST_CASE("bits are counted") {
  CHECK(dev::count_bits(0) == 0);
  CHECK(dev::count_bits(0x80000001u) == 2);
  CHECK(dev::count_bits(dev::kAllLanes) == 32);
}

TEST_CASE("every primitive's kernel runs, writes something, and does not depend on the schedule") {
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    INFO(primitive.name);
    const auto words = words_of(primitive, 0);
    CHECK(words != std::vector<std::uint32_t>(conformance::kWordsOut));
    CHECK(words == words_of(primitive, 3));
  }
}

TEST_CASE("the CPU layer gives the words of golden.txt, which a GPU is held to") {
  const auto known = conformance::read_golden(MERISTEM_SOURCE_DIR "/tests/kernels/layer/golden.txt");
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    INFO(primitive.name);
    REQUIRE(known.count(primitive.name) == 1);
    CHECK(conformance::different(words_of(primitive, 0), known.at(primitive.name), primitive.ulps) == 0);
  }
  CHECK(known.size() == std::size(conformance::kPrimitives));
}

TEST_CASE("words that are not golden.txt's are found") {
  using Words = std::vector<std::uint32_t>;
  const Words one{0x3F800000, 0x80000000};
  CHECK(conformance::different(one, one, 0) == 0);
  CHECK(conformance::different(one, Words{0x3F800001, 0}, 0) == 2);
  CHECK(conformance::different(one, Words{0x3F800001, 0}, 1) == 0);  // 0 and -0 are the same number
  CHECK(conformance::different(one, Words{0x3F800003, 0xBF800000}, 2) == 2);
  CHECK(conformance::different(one, Words{0x3F800000}, 100) == 2);
}

// Every function of the layer's device side stands in a conformance kernel: a new one needs an answer from a GPU, too.
TEST_CASE("no primitive is left out") {
  std::ifstream conformance_file(MERISTEM_SOURCE_DIR "/tests/kernels/layer/conformance.h");
  const std::string used{std::istreambuf_iterator<char>(conformance_file), {}};
  int functions = 0;
  for (const char* header : {"math.h", "memory.h", "threads.h"}) {
    std::ifstream file(std::string(MERISTEM_SOURCE_DIR "/kernels/device/nvcc/") + header);
    REQUIRE(file);
    for (std::string line; std::getline(file, line);) {
      const std::regex declared(R"(^MERISTEM_DEVICE [\w:]+&? (\w+)\()");
      std::smatch match;
      if (!std::regex_search(line, match, declared) || match[1] == "load_shared") continue;  // lds calls it
      INFO(match[1]);
      CHECK(std::regex_search(used, std::regex("device::" + match[1].str() + R"([<(])")));
      ++functions;
    }
  }
  CHECK(functions > 35);
}

TEST_CASE("what golden.txt is to hold", "[.golden]") {
  std::puts(
      "# What each conformance kernel writes, by the CPU layer: test_kernel_layer \"[.golden]\". conformance_on_gpu holds a GPU to it.");
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    std::printf("%s", primitive.name);
    std::vector<std::uint32_t> words = words_of(primitive, 0);
    while (!words.empty() && words.back() == 0) words.pop_back();
    for (const std::uint32_t word : words) std::printf(" %08x", word);
    std::puts("");
  }
}
