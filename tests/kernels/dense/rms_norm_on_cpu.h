// RMSNorm on the CPU layer.
#pragma once

#include "kernels/dense/on_cpu.h"
#include "kernels/dense/rms_norm.h"

namespace meristem::test {

// How many threads share a row of this case, by the width of its elements: the narrowest of 32 to 256 that hold it at 32 elements each.
inline int rms_norm_threads(const RmsNormCase& one, int bytes) {
  if (one.width * bytes % 16 != 0 || one.shift != 0) return 256;
  int threads = 32;
  while (32 * threads < one.width) threads *= 2;
  return threads;
}

// Forward, backward and the sum of the backward blocks' partial sums.
inline DenseWork rms_norm_work(const RmsNormCase& one, int bytes) {
  const int threads = rms_norm_threads(one, bytes), rows_of_a_block = 256 / threads, warps_meet = threads > 32 ? 8 : 0;
  const std::int64_t turns = (one.rows + rows_of_a_block - 1) / rows_of_a_block, elements = one.rows * one.width * bytes;
  const std::int64_t backward = std::min<std::int64_t>(turns, kernels::kRmsNormPartials), partials = backward * threads * 32;
  return DenseWork{turns, turns * warps_meet, elements * (one.update ? 2 : 1) + one.rows * 4, 8 * 4} +
         DenseWork{backward, turns * warps_meet + backward * 8, elements + partials * 4, 2 * 8 * 4 + 256 * 32 * 4} +
         DenseWork{threads, 8 * threads, one.width * 4, 256 * 4};
}

// One buffer misses its alignment: an access of 16 bytes would be a report.
template <class X>
std::string rms_norm_misaligned(int shifted) {
  const RmsNormCase one{"", 2, 64, true, true, 1, 1};
  constexpr int kSize = 2 * 64 + 1;
  kernels::device::host::Array<X> x(kSize), update(kSize), h(kSize), y(kSize), dh(kSize);
  kernels::device::host::Array<float> gain(65), rstd(2), d_gain(64), partials(kernels::kRmsNormScratch);
  for (auto* array : {&x, &update, &h, &y, &dh}) std::fill(array->begin(), array->end(), X{0});
  std::fill(gain.begin(), gain.end(), 1.0f);
  const auto at = [&](auto& array, int buffer) { return array.data() + (buffer == shifted ? 1 : 0); };
  const kernels::RmsNormShape shape{one.rows, one.width, kElement<X>};
  // The same place for forward's and backward's: (x, dy), (update, dh), gain, (h, h), (y, dx).
  return judged(0, rms_norm_work(one, sizeof(X)), [&] {
    kernels::rms_norm_forward(shape, at(x, 0), at(update, 1), at(gain, 2), 1, at(h, 3), at(y, 4), rstd.data(), nullptr);
    kernels::rms_norm_backward(shape, at(x, 0), at(h, 3), at(gain, 2), rstd.data(), at(dh, 1), at(y, 4), d_gain.data(), partials.data(),
                               nullptr);
    return "";
  });
}

// bf16, 40 rows of 2048 with update and dh: each element moved once. The gain comes in two accesses of 16 bytes for 8 elements, a sector a
// lane each; once forward and twice backward.
inline std::string rms_norm_traffic() {
  const RmsNormCase one{"", 40, 2048, true, true};
  const std::string wrong = same_in_two_schedules(rms_norm_work(one, 2), [&] {
    RmsNormProblem<std::uint16_t, CpuMemory> problem(one);
    problem.run();
    return problem.bits();
  });
  if (!wrong.empty()) return wrong;
  constexpr std::int64_t kRows = 40, kWidth = 2048, kElements = 8 * kRows * kWidth * 2;  // bytes of x, update, h, y; dy, h, dh, dx
  constexpr std::int64_t kGain = 3 * kRows * kWidth / 4 / 32, kRstd = 3 * kRows;         // written by one warp, read by two
  constexpr std::int64_t kPartials = 2 * 10 * kWidth, kSums = kWidth / 32;               // of ten blocks, out and in; a sector a sum
  return wrong_traffic(
      {kElements / 512 + kGain + kRstd + kPartials / 32 + kSums, kElements / 32 + 32 * kGain + kRstd + kPartials / 8 + kWidth});
}

template <class X>
std::vector<DenseProblem> rms_norm_problems() {
  std::vector<DenseProblem> problems;
  std::uint32_t seed = 0;
  for (const RmsNormCase& one : rms_norm_cases()) {
    problems.push_back({one.name, [one, seed] {
                          return judged(seed, rms_norm_work(one, sizeof(X)), [&] { return RmsNormProblem<X, CpuMemory>(one).faults(); });
                        }});
    seed = (seed + 1) % 4;
  }
  for (int buffer = 0; buffer < 5; ++buffer)
    problems.push_back({"one buffer is not aligned", [buffer] { return rms_norm_misaligned<X>(buffer); }});
  if constexpr (sizeof(X) == 2) problems.push_back({"the same bits in two schedules, in full sectors", rms_norm_traffic});
  problems.push_back(
      {"counts that are not allowed", [] {
         std::string wrong;
         for (const auto& [rows, width] : {std::pair{0, 0}, {0, -1}, {0, kernels::kRmsNormMaxWidth + 1}, {-1, 64}}) {
           const kernels::RmsNormShape shape{rows, width, kElement<X>};
           wrong +=
               not_refused([&] { kernels::rms_norm_forward(shape, nullptr, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr); });
           wrong += not_refused(
               [&] { kernels::rms_norm_backward(shape, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr); });
         }
         return wrong;
       }});
  return problems;
}

}  // namespace meristem::test
