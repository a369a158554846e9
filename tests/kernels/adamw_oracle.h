// AdamW in double, element by element, and the range lists that the kernel's tests share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "meristem_kernels/adamw.h"

namespace meristem::test {

struct AdamwArrays {
  std::vector<float> master, exp_avg, exp_avg_sq, grad;
  std::vector<std::uint16_t> half;

  // Values of the sizes that training has; half holds a pattern no update writes by chance.
  AdamwArrays(std::size_t count, unsigned seed) : master(count), exp_avg(count), exp_avg_sq(count), grad(count), half(count, 0xABCD) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < count; ++i) {
      master[i] = 0.02f * normal(random);
      grad[i] = 1e-2f * normal(random);
      exp_avg[i] = 1e-3f * normal(random);
      exp_avg_sq[i] = 1e-5f * std::abs(normal(random));
    }
  }
};

// `scale`: the size of the terms that were added up; their difference may be much smaller, its rounding error not.
struct AdamwExpected {
  struct Value {
    double value, scale;
  } master, exp_avg, exp_avg_sq;
};

inline AdamwExpected adamw_in_double(const AdamwArrays& before, std::size_t i, const kernels::AdamwRange& range, const float* bias,
                                     const kernels::AdamwConstants& c, double lr, double clip) {
  const double g = before.grad[i] * clip, b1 = c.beta1, b2 = c.beta2;
  const double m = b1 * before.exp_avg[i] + (1 - b1) * g, v = b2 * before.exp_avg_sq[i] + (1 - b2) * g * g;
  const double p = before.master[i] * (1 - lr * range.weight_decay);
  const double per_m = lr / bias[0] / (std::sqrt(v) / bias[1] + c.eps);
  const double m_scale = std::abs(b1 * before.exp_avg[i]) + std::abs((1 - b1) * g);
  return {{p - per_m * m, std::abs(p) + per_m * m_scale}, {m, m_scale}, {v, v}};
}

// One range after another with `gap` untouched elements before each; the end is also untouched.
inline std::vector<kernels::AdamwRange> ranges_of(const std::vector<std::int64_t>& counts, std::int64_t gap, std::int64_t& total) {
  std::vector<kernels::AdamwRange> ranges;
  total = gap;
  for (std::size_t s = 0; s < counts.size(); ++s) {
    ranges.push_back({total, counts[s], s % 2 == 0 ? 0.1f : 0.0f});
    total += counts[s] + gap;
  }
  return ranges;
}

// The bias corrections of `ranges` ranges, each with another number of updates behind it.
inline std::vector<float> bias_corrections_of(std::size_t ranges) {
  std::vector<float> bias;
  for (std::size_t r = 0; r < ranges; ++r) {
    const double t = 1 + 3 * static_cast<double>(r);
    bias.push_back(static_cast<float>(1 - std::pow(0.9, t)));
    bias.push_back(static_cast<float>(std::sqrt(1 - std::pow(0.95, t))));
  }
  return bias;
}

// What a bf16 value is worth as a float.
inline float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The number of elements that are not what they must be: updated inside the ranges, untouched outside.
inline std::int64_t wrong_elements(const AdamwArrays& before, const AdamwArrays& after, const std::vector<kernels::AdamwRange>& ranges,
                                   const std::vector<float>& bias, const kernels::AdamwConstants& constants, double lr, double clip,
                                   bool half) {
  const auto near = [](double got, const AdamwExpected::Value& want) { return std::abs(got - want.value) <= 4e-7 * want.scale; };
  std::vector<const kernels::AdamwRange*> owner(before.master.size(), nullptr);
  for (const auto& range : ranges) {
    for (std::int64_t i = 0; i < range.count; ++i) owner[static_cast<std::size_t>(range.offset + i)] = &range;
  }
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < owner.size(); ++i) {
    bool ok = false;
    if (owner[i] == nullptr) {
      ok = after.master[i] == before.master[i] && after.exp_avg[i] == before.exp_avg[i] && after.exp_avg_sq[i] == before.exp_avg_sq[i] &&
           after.half[i] == before.half[i];
    } else {
      const AdamwExpected want =
          adamw_in_double(before, i, *owner[i], &bias[2 * static_cast<std::size_t>(owner[i] - ranges.data())], constants, lr, clip);
      ok = near(after.master[i], want.master) && near(after.exp_avg[i], want.exp_avg) && near(after.exp_avg_sq[i], want.exp_avg_sq);
      const float rounding = std::abs(from_bf16(after.half[i]) - after.master[i]);  // half an ulp of bf16's eight bits
      ok = ok && (half ? rounding <= std::abs(after.master[i]) / 256 : after.half[i] == before.half[i]);
    }
    if (!ok) ++wrong;
  }
  return wrong;
}

}  // namespace meristem::test
