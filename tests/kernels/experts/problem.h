// One problem of expert dispatch: random choices and rows, and what the kernels made of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/problem.h"
#include "meristem_kernels/experts.h"

namespace meristem::test {

struct ExpertCase {
  std::string name;
  int tokens, choices, experts, width;
  bool crowded = false;    // all tokens choose the same experts, the last ones; the others receive none
  bool weighted = true;    // else expert_combine is given no weights
  std::uint32_t seed = 0;  // of the schedule
};

class ExpertProblem {
 public:
  explicit ExpertProblem(const ExpertCase& parameters)
      : given(parameters),
        rows_count(given.tokens * given.choices),
        chosen(size(rows_count)),
        scratch(static_cast<std::size_t>(kernels::expert_sort_scratch(shape()))),
        place(size(rows_count)),
        ends(size(given.experts)),
        x(size(given.tokens * given.width)),
        gathered(size(rows_count * given.width)),
        rows(size(rows_count * given.width)),
        d_rows(size(rows_count * given.width)),
        y(size(given.tokens * given.width)),
        dy(size(given.tokens * given.width)),
        weights(size(rows_count)),
        d_weights(size(rows_count)) {
    std::mt19937 random(41);
    std::normal_distribution<float> normal;
    std::vector<std::int64_t> experts(size(given.experts));
    std::iota(experts.begin(), experts.end(), 0);
    for (int n = 0; n < given.tokens; ++n) {
      if (!given.crowded) std::shuffle(experts.begin(), experts.end(), random);
      for (int j = 0; j < given.choices; ++j) chosen[size(n * given.choices + j)] = experts[size(given.experts - 1 - j)];
    }
    for (auto* words : {&x, &rows, &dy}) {
      for (std::uint16_t& word : *words) word = bf16_bits(normal(random));
    }
    for (float& weight : weights) weight = normal(random);
  }

  kernels::ExpertShape shape() const { return {given.tokens, given.choices, given.experts, given.width}; }
  static std::size_t size(int count) { return static_cast<std::size_t>(count); }

  ExpertCase given;
  int rows_count;
  DeviceArray<std::int64_t> chosen;
  DeviceArray<std::int32_t> scratch, place, ends;
  // rows: what the experts are to have made of `gathered`; here just numbers.
  DeviceArray<std::uint16_t> x, gathered, rows, d_rows, y, dy;
  DeviceArray<float> weights, d_weights;
};

}  // namespace meristem::test
