// Problems of AdamW, with an oracle in double, element by element; and of the squared norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/values.h"
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

// Of element `i` of the range.
inline AdamwExpected adamw_in_double(const AdamwArrays& all, std::int64_t i, const kernels::AdamwRange& range, const float* bias,
                                     const kernels::AdamwConstants& c, double lr, double clip) {
  const double g = all.grad[as_size(range.grad + i)] * clip, b1 = c.beta1, b2 = c.beta2;
  const double before_m = all.exp_avg[as_size(range.moments + i)], before_v = all.exp_avg_sq[as_size(range.moments + i)];
  const double m = b1 * before_m + (1 - b1) * g, v = b2 * before_v + (1 - b2) * g * g;
  const double p = all.master[as_size(range.master + i)] * (1 - lr * range.weight_decay);
  const double per_m = lr / bias[0] / (std::sqrt(v) / bias[1] + c.eps);
  const double m_scale = std::abs(b1 * before_m) + std::abs((1 - b1) * g);
  return {{p - per_m * m, std::abs(p) + per_m * m_scale}, {m, m_scale}, {v, v}};
}

struct AdamwCase {
  std::string name;
  std::vector<std::int64_t> counts;  // of the ranges
  std::int64_t gap;                  // elements that belong to none, before each
  bool half = true;
  std::int64_t more_in_master = 0, more_in_moments = 0;  // so many more before each in those
};

// One range after another with untouched elements before each; the end is also untouched. total: elements that suffice for each buffer.
inline std::vector<kernels::AdamwRange> ranges_of(const AdamwCase& one, std::int64_t& total) {
  std::vector<kernels::AdamwRange> ranges;
  std::int64_t before = 0;
  for (std::size_t s = 0; s < one.counts.size(); ++s) {
    const auto n = static_cast<std::int64_t>(s) + 1;
    const std::int64_t begin = before + n * one.gap;
    ranges.push_back({begin, begin + n * one.more_in_master, begin + n * one.more_in_moments, one.counts[s], s % 2 == 0 ? 0.1f : 0.0f});
    before += one.counts[s];
  }
  total = before + (static_cast<std::int64_t>(one.counts.size()) + 1) * (one.gap + std::max(one.more_in_master, one.more_in_moments));
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

// The number of elements that are not what they must be: updated inside the ranges, untouched outside.
inline std::int64_t wrong_elements(const AdamwArrays& before, const AdamwArrays& after, const std::vector<kernels::AdamwRange>& ranges,
                                   const std::vector<float>& bias, const kernels::AdamwConstants& constants, double lr, double clip,
                                   bool half) {
  const auto near = [](double got, const AdamwExpected::Value& want) { return std::abs(got - want.value) <= 4e-7 * want.scale; };
  AdamwArrays untouched = after;  // but for what ranges hold, which is put back
  std::int64_t wrong = 0;
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    const kernels::AdamwRange& range = ranges[r];
    for (std::int64_t i = 0; i < range.count; ++i) {
      const std::size_t g = as_size(range.grad + i), p = as_size(range.master + i), m = as_size(range.moments + i);
      const AdamwExpected want = adamw_in_double(before, i, range, &bias[2 * r], constants, lr, clip);
      bool ok = near(after.master[p], want.master) && near(after.exp_avg[m], want.exp_avg) && near(after.exp_avg_sq[m], want.exp_avg_sq);
      const float rounding = std::abs(value_of(after.half[g]) - after.master[p]);  // half an ulp of bf16's eight bits
      ok = ok && (half ? rounding <= std::abs(after.master[p]) / 256 : after.half[g] == before.half[g]);
      if (!ok) ++wrong;
      untouched.master[p] = before.master[p];
      untouched.exp_avg[m] = before.exp_avg[m];
      untouched.exp_avg_sq[m] = before.exp_avg_sq[m];
      untouched.half[g] = before.half[g];
    }
  }
  for (std::size_t i = 0; i < before.master.size(); ++i) {
    const bool same = untouched.master[i] == before.master[i] && untouched.exp_avg[i] == before.exp_avg[i] &&
                      untouched.exp_avg_sq[i] == before.exp_avg_sq[i] && untouched.half[i] == before.half[i];
    if (!same) ++wrong;
  }
  return wrong;
}

inline std::vector<AdamwCase> adamw_cases() {
  std::vector<AdamwCase> cases{{"ranges of whole vectors", {4, 2048, 2052, 8192, 12}, 4},
                               {"without the copy", {8192}, 0, false},
                               {"without the copy, a ragged end", {2051}, 0, false},
                               {"kept state that lies elsewhere", {2048, 2052, 16, 4096}, 32, true, 8, 4},
                               {"masters at odd places", {4096}, 4, true, 1, 0},
                               {"moments at odd places", {4096}, 4, true, 0, 2},
                               {"odd counts, so odd offsets", {1, 3, 2047, 2049, 5000, 6145}, 64},
                               {"empty ranges", {4, 0, 2048, 0, 0, 8}, 4},
                               {"nothing", {}, 4},
                               {"several launches", std::vector<std::int64_t>(2 * kernels::kAdamwRangesPerLaunch + 3, 260), 4}};
  for (const std::int64_t count : {1, 2046, 2047, 4094, 5000}) cases.push_back({"ragged end " + std::to_string(count), {count}, 8});
  return cases;
}

// Runs the update; empty where every element is as it should be. `shift`: the buffers begin that many elements into their memory.
template <class Memory>
std::string adamw_faults(const AdamwCase& given, std::size_t shift = 0, float clip = 0.7f) {
  constexpr float kLr = 3e-3f;
  std::int64_t total = 0;
  const auto ranges = ranges_of(given, total);
  const AdamwArrays before(as_size(total), 7);
  typename Memory::template Array<float> p(before.master.size() + shift), m(p.size()), v(p.size()), g(p.size()), scalars(2),
      corrections(2 * ranges.size());
  typename Memory::template Array<std::uint16_t> half(p.size());
  const auto copy = [&](const auto& from, auto& to) { std::copy(from.begin(), from.end(), to.begin() + shift); };
  copy(before.master, p), copy(before.exp_avg, m), copy(before.exp_avg_sq, v), copy(before.grad, g), copy(before.half, half);
  scalars[0] = kLr;
  scalars[1] = clip;
  const std::vector<float> bias = bias_corrections_of(ranges.size());
  std::copy(bias.begin(), bias.end(), corrections.begin());
  kernels::adamw({p.data() + shift, m.data() + shift, v.data() + shift, g.data() + shift, given.half ? half.data() + shift : nullptr},
                 ranges.data(), static_cast<int>(ranges.size()), {}, corrections.data(), scalars.data(), scalars.data() + 1, nullptr);
  Memory::finish();
  AdamwArrays after = before;
  const auto fetch = [&](const auto& from, auto& to) { std::copy(from.begin() + shift, from.end(), to.begin()); };
  fetch(p, after.master), fetch(m, after.exp_avg), fetch(v, after.exp_avg_sq), fetch(half, after.half);
  // A factor that is not finite leaves everything as it was, as if there were no ranges.
  const std::int64_t wrong =
      wrong_elements(before, after, std::isfinite(clip) ? ranges : std::vector<kernels::AdamwRange>{}, bias, {}, kLr, clip, given.half);
  return wrong == 0 ? "" : std::to_string(wrong) + " wrong elements";
}

// The sum of squares of `count` numbers against a sum in order, and its bits on a second run.
template <class Memory>
std::string squared_norm_faults(std::int64_t count) {
  typename Memory::template Array<float> values(as_size(count));
  typename Memory::template Array<double> partials(kernels::kSquaredNormPartials), result(2);
  fill_normal(values, 5, 1e-2);
  double want = 0;
  for (const float x : values) want += static_cast<double>(x) * static_cast<double>(x);
  for (int run = 0; run < 2; ++run) kernels::squared_norm(values.data(), count, partials.data(), result.data() + run, nullptr);
  Memory::finish();
  if (!(std::abs(result[0] - want) <= 1e-12 * want)) return "sum " + std::to_string(result[0]) + ", expected " + std::to_string(want);
  return result[0] == result[1] ? "" : "two runs differ";
}

// The norm of a 1e-2 times a normal with one number replaced.
template <class Memory>
double squared_norm_with(float planted) {
  typename Memory::template Array<float> values(20001);
  fill_normal(values, 3);
  values[20000] = planted;
  typename Memory::template Array<double> partials(kernels::kSquaredNormPartials), result(1);
  kernels::squared_norm(values.data(), static_cast<std::int64_t>(values.size()), partials.data(), result.data(), nullptr);
  Memory::finish();
  return result[0];
}

}  // namespace meristem::test
