// AdamW and the squared norm on the CPU layer.
#pragma once

#include <limits>

#include "kernels/dense/adamw.h"
#include "kernels/dense/on_cpu.h"

namespace meristem::test {

// A block for each tile of a range; each element stored once.
inline DenseWork adamw_work(const AdamwCase& one) {
  std::int64_t blocks = 0, elements = 0;
  for (const std::int64_t count : one.counts) {
    blocks += (count + 2047) / 2048;
    elements += count;
  }
  return {blocks, 0, elements * (one.half ? 14 : 12), 0};
}

// One tile with one buffer that misses its alignment: an access of 16 bytes would be a report.
inline std::string adamw_misaligned(int shifted) {
  kernels::device::host::Array<float> p(2052), m(2052), v(2052), g(2052), scalars(4);
  kernels::device::host::Array<std::uint16_t> half(2052);
  for (auto* array : {&p, &m, &v, &g, &scalars}) std::fill(array->begin(), array->end(), 1.0f);
  const auto shift = [&](int buffer) { return buffer == shifted ? 1 : 0; };
  const kernels::AdamwRange range{0, 2048, 0};
  return judged(0, {1, 0, 2048 * 14, 0}, [&] {
    kernels::adamw({p.data() + shift(0), m.data() + shift(1), v.data() + shift(2), g.data() + shift(3), half.data() + 2 * shift(4)}, &range,
                   1, {}, scalars.data() + 2, scalars.data(), scalars.data() + 1, nullptr);
    return "";
  });
}

inline std::vector<DenseProblem> adamw_problems() {
  std::vector<DenseProblem> problems;
  for (const AdamwCase& one : adamw_cases())
    problems.push_back({one.name, [one] { return judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one); }); }});
  for (const float clip : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    problems.push_back({"a clip factor that is not finite changes nothing",
                        [clip] { return judged(0, {3, 0, 0, 0}, [&] { return adamw_faults<CpuMemory>({"", {4096, 5}, 0}, 0, clip); }); }});
  }
  for (const std::size_t shift : {0, 16}) {  // two places, so that no modulus but the right ones divides both addresses
    problems.push_back({"whole tiles, in full sectors and 16-byte accesses", [shift] {
                          const AdamwCase one{"", {4096}, 64};
                          const std::string wrong = judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one, shift); });
                          // 4096 elements, 30 bytes each; the copy goes in 8-byte accesses. Each of 16 warps reads four scalars.
                          return wrong.empty() ? wrong_traffic({4096 * 28 / 512 + 4096 * 2 / 256 + 64, 4096 * 30 / 32 + 64}) : wrong;
                        }});
  }
  problems.push_back({"no buffer is aligned", [] {
                        const AdamwCase one{"", {4, 2048, 2052}, 4};
                        return judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one, 1); });
                      }});
  for (int buffer = 0; buffer < 5; ++buffer) {
    problems.push_back({"one buffer is not aligned", [buffer] { return adamw_misaligned(buffer); }});
  }
  return problems;
}

inline DenseWork squared_norm_work(std::int64_t count) {
  const std::int64_t wanted = (count + 4095) / 4096,
                     blocks = wanted < 1 ? 1 : std::min<std::int64_t>(wanted, kernels::kSquaredNormPartials);
  return {blocks + 1, 8 * (blocks + 1), 8 * (blocks + 1), 2 * 64};
}

// The norm of a 1e-2 times a normal with one number replaced.
inline double squared_norm_with(float planted) {
  kernels::device::host::Array<float> values(20001);
  fill_normal(values, 3);
  values[20000] = planted;
  kernels::device::host::Array<double> partials(kernels::kSquaredNormPartials), result(1);
  kernels::squared_norm(values.data(), static_cast<std::int64_t>(values.size()), partials.data(), result.data(), nullptr);
  return result[0];
}

inline std::vector<DenseProblem> squared_norm_problems() {
  std::vector<DenseProblem> problems;
  for (const std::int64_t count : {0, 1, 3, 4, 1023, 4096, 4097, 50003}) {
    for (const std::uint32_t seed : {0u, 7u}) {
      problems.push_back({std::to_string(count) + " numbers, schedule " + std::to_string(seed), [count, seed] {
                            return judged(seed, squared_norm_work(count) + squared_norm_work(count),
                                          [&] { return squared_norm_faults<CpuMemory>(count); });
                          }});
    }
  }
  problems.push_back({"an infinity", [] {
                        return judged(0, squared_norm_work(20001), [] {
                          return std::isinf(squared_norm_with(std::numeric_limits<float>::infinity())) ? "" : "it is lost";
                        });
                      }});
  problems.push_back({"a NaN", [] {
                        return judged(0, squared_norm_work(20001), [] {
                          return std::isnan(squared_norm_with(std::numeric_limits<float>::quiet_NaN())) ? "" : "it is lost";
                        });
                      }});
  return problems;
}

}  // namespace meristem::test
