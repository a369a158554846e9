// RMSNorm and RoPE on the CPU layer: what a problem needs, and what must not be asked for.
#include <algorithm>
#include <utility>

#include "kernels/dense/rms_norm.h"
#include "kernels/dense/rope.h"
#include "kernels/on_cpu.h"

namespace meristem::test {
namespace {

// How many threads share a row of this case, by the width of its elements: the narrowest of 32 to 256 that hold it at 32 elements each.
int rms_norm_threads(const RmsNormCase& one, int bytes) {
  if (one.width * bytes % 16 != 0 || one.shift != 0) return 256;
  int threads = 32;
  while (32 * threads < one.width) threads *= 2;
  return threads;
}

template <class Solve>
auto on_an_a100(const Solve& solve) {
  return [solve] {
    const On on(dev::host::kA100);
    return solve();
  };
}

// Two blocks for each multiprocessor walk over all rows of a backward pass, no more than `most` and no more than there is work for.
std::int64_t walking(std::int64_t wanted, std::int64_t most) {
  return std::min({wanted, most, std::int64_t{2} * Grid::current().settings.limits.processors});
}

// Forward, backward and the sum of the backward blocks' partial sums.
Work rms_norm_work(const RmsNormCase& one, int bytes) {
  const int threads = rms_norm_threads(one, bytes), rows_of_a_block = 256 / threads, warps_meet = threads > 32 ? 8 : 0;
  const std::int64_t turns = (one.rows + rows_of_a_block - 1) / rows_of_a_block, elements = one.rows * one.width * bytes;
  const std::int64_t backward = walking(turns, kernels::kRmsNormPartials), partials = backward * threads * 32;
  return row_work(turns, turns * warps_meet, elements * (one.update ? 2 : 1) + one.rows * 4, 8 * 4) +
         row_work(backward, turns * warps_meet + backward * 8, elements + partials * 4, 2 * 8 * 4 + 256 * 32 * 4) +
         row_work(threads, 8 * threads, one.width * 4, 256 * 4);
}

// One buffer misses its alignment: an access of 16 bytes would be a report.
template <class X>
std::string rms_norm_misaligned(int shifted) {
  const RmsNormCase one{"", 2, 64, true, true, 1, 1};
  constexpr int kSize = 2 * 64 + 1;
  CpuArray<X> x(kSize), update(kSize), h(kSize), y(kSize), dh(kSize);
  CpuArray<float> gain(65), rstd(2), d_gain(64), partials(kernels::kRmsNormScratch);
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
std::string rms_norm_traffic() {
  const RmsNormCase one{"", 40, 2048, true, true};
  const std::string wrong = same_in_two_schedules(rms_norm_work(one, 2), [&] {
    RmsNormProblem<Bf16, CpuMemory> problem(one);
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
std::vector<Problem> rms_norm_problems() {
  std::vector<Problem> problems;
  std::uint32_t seed = 0;
  for (const RmsNormCase& one : rms_norm_cases()) {
    const auto solve = [one, seed] {
      return judged(seed, rms_norm_work(one, sizeof(X)), [&] { return RmsNormProblem<X, CpuMemory>(one).faults(); });
    };
    problems.push_back({one.name, solve});
    if (one.rows >= kernels::kRmsNormPartials) problems.push_back({one.name + ", on an A100", on_an_a100(solve)});
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
           wrong += not_refused(
               "rms_norm: ", [&] { kernels::rms_norm_forward(shape, nullptr, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr); });
           wrong += not_refused("rms_norm: ", [&] {
             kernels::rms_norm_backward(shape, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
           });
         }
         return of_kind("refusal", wrong);
       }});
  return problems;
}

// Turned in place, forward behind the norm, and backward twice, the second time in place.
Work rope_work(const RopeCase& one, int bytes) {
  const std::int64_t blocks = (one.rows + 7) / 8, backward = walking(blocks, kernels::kRopePartials);
  const std::int64_t heads = one.rows * one.heads * one.head_dim * bytes, rest = one.rows * one.rest * bytes;
  const std::int64_t gains = 2 * one.head_dim, sums = (gains + 31) / 32;
  const Work back = row_work(backward + sums, 8 * (backward + sums), heads + (backward + 1) * gains * 4, 4 * 8 * (256 + 32) * 4 + 256 * 4);
  return row_work(2 * blocks, 0, 2 * heads + 2 * rest, 0) + back + back;  // the rest: forward, and the first time backward
}

// One buffer misses its alignment, or the stride of one: an access of 16 bytes would be a report.
template <class X>
std::string rope_misaligned(int wrong) {
  constexpr int kRows = 2, kHeads = 2, kDim = 32, kColumns = kHeads * kDim;
  CpuArray<X> x(kRows * kColumns + 2), dy(x.size()), out(x.size());
  CpuArray<float> q_gain(kDim + 1), k_gain(kDim + 1), cos(kDim / 2 + 1), sin(kDim / 2 + 1), d_gains(2 * kDim);
  CpuArray<float> partials(2 * kDim);
  CpuArray<std::int32_t> positions(kRows);
  for (auto* array : {&x, &dy, &out}) std::fill(array->begin(), array->end(), X{0});
  for (auto* array : {&q_gain, &k_gain, &cos, &sin}) std::fill(array->begin(), array->end(), 0.0f);
  std::fill(positions.begin(), positions.end(), 0);
  const auto at = [&](auto& array, int buffer) { return array.data() + (buffer == wrong ? 1 : 0); };
  const auto stride = [&](int matrix) { return kColumns + (matrix == wrong ? 1 : 0); };
  const kernels::RopeShape shape{kRows, kHeads, kDim, kElement<X>, positions.data(), at(cos, 0), at(sin, 1)};
  const kernels::QkNorm norm{1, 1, at(q_gain, 2), at(k_gain, 3)};
  const std::int64_t stored = kRows * kColumns * static_cast<std::int64_t>(sizeof(X));
  return judged(0, row_work(5, 16 + 8, 3 * stored + 2 * 2 * kDim * 4, 4 * 8 * (256 + 32) * 4 + 256 * 4), [&] {
    kernels::rope(shape, at(x, 4), stride(7), 1, nullptr);
    kernels::qk_norm_rope_forward(shape, norm, kColumns, at(x, 4), stride(7), at(out, 6), stride(9), nullptr);
    kernels::qk_norm_rope_backward(shape, norm, kColumns, at(dy, 5), stride(8), at(x, 4), stride(7), at(out, 6), stride(9), d_gains.data(),
                                   partials.data(), nullptr);
    return "";
  });
}

template <class X>
std::string rope_refusals() {
  std::string wrong;
  const auto shape = [](int rows, int heads, int head_dim) {
    return kernels::RopeShape{rows, heads, head_dim, kElement<X>, nullptr, nullptr, nullptr};
  };
  const auto normed = [&](const kernels::RopeShape& given, int query_heads, int columns) {
    const kernels::QkNorm norm{query_heads, 0, nullptr, nullptr};
    wrong += not_refused("rope: ", [&] { kernels::qk_norm_rope_forward(given, norm, columns, nullptr, 128, nullptr, 128, nullptr); });
    wrong += not_refused("rope: ", [&] {
      kernels::qk_norm_rope_backward(given, norm, columns, nullptr, 128, nullptr, 128, nullptr, 128, nullptr, nullptr, nullptr);
    });
  };
  for (const auto& given :
       {shape(0, 1, 0), shape(0, 1, 7), shape(0, 1, kernels::kRopeMaxHeadDim + 2), shape(-1, 1, 64), shape(0, -1, 64)}) {
    wrong += not_refused("rope: ", [&] { kernels::rope(given, nullptr, 0, 1, nullptr); });
    normed(given, 0, 4096);
  }
  normed(shape(0, 2, 64), 3, 128);
  normed(shape(0, 2, 64), -1, 128);
  normed(shape(0, 2, 64), 1, 127);
  return of_kind("refusal", wrong);
}

// Runs in two schedules: the same bits, and this traffic.
std::string rope_traffic(const RopeCase& one, const Moved& needed) {
  const std::string wrong = same_in_two_schedules(rope_work(one, 2), [&] {
    RopeProblem<Bf16, CpuMemory> problem(one);
    problem.run();
    return problem.bits();
  });
  return wrong.empty() ? wrong_traffic(needed) : wrong;
}

// bf16. Four lanes a head, all eight of a warp in one turn, and one access of columns behind them. Accesses and sectors of a row: its
// position 1, 1; angles 4, 16; a matrix's heads 2, 32; gains 4, 32; the columns behind in or out 1, 4.
std::string rope_traffic_64() {
  const Moved turn{1 + 4 + 4, 1 + 16 + 64}, forward{1 + 4 + 4 + 4 + 2, 1 + 16 + 64 + 32 + 8}, in_place{1 + 4 + 6 + 4, 1 + 16 + 96 + 32};
  const Moved sums{3 * 4 + 3 * 4 + 4, 3 * 16 + 3 * 16 + 16};  // of three blocks: out, in again, and their sum
  return rope_traffic({"", 20, 8, 6, 64, 64}, {20 * (turn.accesses + forward.accesses + 2 * in_place.accesses + 2) + 2 * sums.accesses,
                                               20 * (turn.sectors + forward.sectors + 2 * in_place.sectors + 8) + 2 * sums.sectors});
}

// bf16. One lane a head, 32 of them in one turn: a lane's 16 bytes are half a sector.
std::string rope_traffic_16() {
  const Moved turn{1 + 4 + 4, 1 + 4 + 128}, forward{1 + 4 + 4 + 4, 1 + 4 + 128 + 4}, backward{1 + 4 + 6 + 4, 1 + 4 + 192 + 4};
  const Moved sums{3, 3 * 4};
  return rope_traffic({"", 8, 32, 32, 16}, {8 * (turn.accesses + forward.accesses + 2 * backward.accesses) + 2 * sums.accesses,
                                            8 * (turn.sectors + forward.sectors + 2 * backward.sectors) + 2 * sums.sectors});
}

template <class X>
std::vector<Problem> rope_problems() {
  std::vector<Problem> problems;
  std::uint32_t seed = 0;
  for (const RopeCase& one : rope_cases()) {
    const auto solve = [one, seed] {
      return judged(seed, rope_work(one, sizeof(X)), [&] { return RopeProblem<X, CpuMemory>(one).faults(); });
    };
    problems.push_back({one.name, solve});
    if (one.rows >= kernels::kRopePartials) problems.push_back({one.name + ", on an A100", on_an_a100(solve)});
    seed = (seed + 1) % 4;
  }
  for (int wrong = 0; wrong < 10; ++wrong) problems.push_back({"one buffer is not aligned", [wrong] { return rope_misaligned<X>(wrong); }});
  for (const int head_dim : {128, 256}) {
    problems.push_back({"the same bits in two schedules, " + std::to_string(head_dim), [head_dim] {
                          const RopeCase one{"", 20, 5, 3, head_dim, 64};
                          return same_in_two_schedules(rope_work(one, sizeof(X)), [&] {
                            RopeProblem<X, CpuMemory> problem(one);
                            problem.run();
                            return problem.bits();
                          });
                        }});
  }
  if constexpr (sizeof(X) == 2) {
    problems.push_back({"the same bits in two schedules, in full sectors, 16", rope_traffic_16});
    problems.push_back({"the same bits in two schedules, in full sectors, 64", rope_traffic_64});
  }
  problems.push_back({"counts that are not allowed", rope_refusals<X>});
  return problems;
}

}  // namespace

std::vector<Part> norm_parts() {
  return {{"rms_norm bf16", rms_norm_problems<Bf16>()},
          {"rope bf16", rope_problems<Bf16>()},
          {"rms_norm fp32", rms_norm_problems<float>()},
          {"rope fp32", rope_problems<float>()}};
}

}  // namespace meristem::test
