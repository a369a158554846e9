// Problems of AdamW and of the squared norm.
#pragma once

#include "kernels/adamw_oracle.h"
#include "kernels/dense/values.h"
#include "meristem_kernels/adamw.h"

namespace meristem::test {

struct AdamwCase {
  std::string name;
  std::vector<std::int64_t> counts;  // of the ranges
  std::int64_t gap;                  // elements that belong to none, before each
  bool half = true;
};

inline std::vector<AdamwCase> adamw_cases() {
  std::vector<AdamwCase> cases{{"ranges of whole vectors", {4, 2048, 2052, 8192, 12}, 4},
                               {"without the copy", {8192}, 0, false},
                               {"without the copy, a ragged end", {2051}, 0, false},
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
  const auto ranges = ranges_of(given.counts, given.gap, total);
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

}  // namespace meristem::test
