// The grid of problems that every version of the expert kernels must solve.
#pragma once

#include <random>
#include <vector>

#include "kernels/experts/problem.h"

namespace meristem::test {

inline std::vector<ExpertCase> expert_cases() {
  return {
      // name, N, k, E, D, crowded, weighted, schedule
      {"one token, one expert", 1, 1, 1, 8},
      {"no token", 0, 2, 5, 8},
      {"one choice", 37, 1, 4, 40, false, true, 1},
      {"every expert", 9, 6, 6, 16},
      {"every expert of one token", 1, 33, 33, 8},
      {"all tokens at one expert", 70, 1, 8, 24, true},
      {"all tokens at three experts", 50, 3, 200, 24, true, true, 2},
      {"five choices", 23, 5, 9, 264, false, true, 3},
      {"more experts than choices", 3, 2, 1000, 8},
      {"more choices than a tile", 301, 2, 7, 8, false, true, 1},
      {"more tiles than a block has", 1200, 2, 3, 8, false, false, 2},
      {"more tiles than the scan has warps", 4500, 2, 2, 8, true, true},
      {"a tile to the last choice", 256, 2, 33, 8},
      {"one expert, four tiles, the last not full", 1600, 1, 1, 8},
      {"the most experts", 20, 2, 4096, 8},
      {"sums without weights", 11, 4, 5, 72, false, false},
  };
}

// Shapes that nobody chose.
inline std::vector<ExpertCase> random_expert_cases(int count) {
  std::vector<ExpertCase> cases;
  std::mt19937 random(43);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    ExpertCase next;
    next.name = "random " + std::to_string(i);
    next.experts = 1 + below(70);
    next.choices = 1 + below(std::min(next.experts, 9));
    next.tokens = 1 + below(150);
    next.width = 8 * (1 + below(20));
    next.crowded = below(4) == 0;
    next.weighted = below(3) != 0;
    next.seed = random() % 5;
    cases.push_back(next);
  }
  return cases;
}

}  // namespace meristem::test
