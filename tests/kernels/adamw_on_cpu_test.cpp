// The AdamW kernel's own source, walked over every block and thread on the CPU.
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "adamw/adamw_thread.h"
#include "kernels/adamw_oracle.h"
#include "meristem_kernels/squared_norm.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
namespace detail = meristem::kernels::detail;

namespace {

constexpr float kLr = 3e-3f, kClip = 0.7f;

// As adamw.cu launches it.
void adamw_on_cpu(AdamwArrays& arrays, const std::vector<kernels::AdamwSegment>& segments, bool half, bool expect_vectorised) {
  detail::AdamwLaunch launch{};
  launch.buffers = {arrays.master.data(), arrays.exp_avg.data(), arrays.exp_avg_sq.data(), arrays.grad.data(),
                    half ? arrays.half.data() : nullptr};
  launch.lr = &kLr;
  launch.clip_factor = &kClip;
  const int count = static_cast<int>(segments.size());
  for (int first = 0; first < count;) {
    std::int32_t tiles = 0;
    first += detail::fill_adamw_launch(launch, segments.data(), count, first, tiles);
    CHECK(launch.vectorised == expect_vectorised);
    for (int block = 0; block < tiles; ++block) {
      for (int thread = 0; thread < detail::kAdamwThreads; ++thread) detail::adamw_thread(launch, block, thread);
    }
  }
}

void check_segments(const std::vector<std::int64_t>& counts, std::int64_t gap, bool half, bool expect_vectorised) {
  std::int64_t total = 0;
  const auto segments = segments_of(counts, gap, total);
  const AdamwArrays before(static_cast<std::size_t>(total), 7);
  AdamwArrays after = before;
  adamw_on_cpu(after, segments, half, expect_vectorised);
  CHECK(wrong_elements(before, after, segments, {}, kLr, kClip, half) == 0);
}

}  // namespace

TEST_CASE("every element of every segment is updated once, and nothing else is touched") {
  check_segments({4, 2048, 2052, 8192, 12}, 4, true, true);
  check_segments({8192}, 0, false, true);
  check_segments({1, 3, 2047, 2049, 5000, 6145}, 64, true, false);  // odd counts make odd offsets: scalar accesses
  for (const std::int64_t count : {1, 2046, 2047, 4094, 5000}) check_segments({count}, 8, true, true);  // ragged ends
  check_segments({4, 0, 2048, 0, 0, 8}, 4, true, true);             // empty segments
  check_segments(std::vector<std::int64_t>(2 * kernels::kAdamwSegmentsPerLaunch + 3, 2052), 4, true, true);
}

TEST_CASE("buffers that are not aligned take scalar accesses") {
  AdamwArrays arrays(64, 1);
  detail::AdamwLaunch launch{};
  launch.buffers = {arrays.master.data() + 1, arrays.exp_avg.data(), arrays.exp_avg_sq.data(), arrays.grad.data(), nullptr};
  const kernels::AdamwSegment segment{0, 16, 1, 1, 0};
  std::int32_t tiles = 0;
  CHECK(detail::fill_adamw_launch(launch, &segment, 1, 0, tiles) == 1);
  CHECK(tiles == 1);
  CHECK_FALSE(launch.vectorised);
}

TEST_CASE("bf16 is rounded to the nearest, ties to even") {
  CHECK(detail::bf16_bits(1.0f) == 0x3F80);
  CHECK(detail::bf16_bits(-0.0f) == 0x8000);
  CHECK(detail::bf16_bits(1.0f + 1.0f / 256) == 0x3F80);                 // a tie: to the even one below
  CHECK(detail::bf16_bits(1.0f + 3.0f / 256) == 0x3F82);                 // a tie: to the even one above
  CHECK(detail::bf16_bits(std::nextafter(1.0f + 1.0f / 256, 2.0f)) == 0x3F81);
  CHECK(detail::bf16_bits(std::numeric_limits<float>::infinity()) == 0x7F80);
  CHECK(std::isnan(from_bf16(detail::bf16_bits(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("without CUDA the kernels say that they are not there") {
  // This program links the twin, whatever the build.
  CHECK_FALSE(kernels::available());
  CHECK(kernels::device_name().empty());
  CHECK_THROWS_AS(kernels::adamw({}, nullptr, 0, {}, nullptr, nullptr, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::squared_norm(nullptr, 0, nullptr, nullptr, nullptr), std::runtime_error);
}
