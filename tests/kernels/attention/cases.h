// The grid of attention problems that every version of the kernels must solve.
#pragma once

#include <random>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

inline std::vector<AttentionCase> attention_cases() {
  return {
      // name, documents, H, G, D, left, right, factor, bias, schedule
      {"one token", {1}, 1, 1, 64},
      {"one below a tile", {63}, 2, 1, 64, -1, 0, 1, 0, 1},
      {"a tile", {64}, 1, 1, 128},
      {"one above a tile", {65}, 2, 2, 64, -1, -1, 1, 0, 2},
      {"half a query tile left, causal", {192}, 2, 1, 64, -1, 0, 1, 0, 3},
      {"half a query tile left, full", {192}, 1, 1, 128, -1, -1},
      {"three tiles and a bit", {200}, 3, 1, 64, -1, 0, 8, 0, 1},
      {"sharp", {200}, 1, 1, 128, -1, -1, 8},
      {"long and sharp", {520}, 1, 1, 64, -1, 0, 8},
      // One key has all the weight, and the next one is more than 88 below it: exp of a score less any other maximum overflows.
      {"one key a row", {200}, 1, 1, 64, -1, 0, 200},
      {"one key a row, full, D 128", {140}, 1, 1, 128, -1, -1, 200},
      {"log-sum-exp below -88", {150}, 2, 1, 64, -1, 0, 1, 4},
      {"log-sum-exp below -88, D 128", {130}, 1, 1, 128, -1, -1, 1, 4},
      {"empty documents", {0, 5, 0, 0, 70, 1, 130, 0}, 2, 1, 64},
      {"empty documents, full, D 128", {0, 33, 0, 129}, 2, 1, 128, -1, -1},
      {"window", {300}, 2, 1, 64, 40, 0, 1, 0, 2},
      {"window of one", {140}, 1, 1, 64, 0, 0},
      {"window on both sides", {200}, 1, 1, 128, 30, 50},
      {"window to the right alone", {200}, 1, 1, 64, 0, 70},
      {"window over packed documents", {100, 0, 150, 3}, 2, 2, 64, 63, 0, 1, 0, 3},
      {"window wider than the document", {70}, 1, 1, 64, 500, 500},
      {"eight heads a group", {70}, 8, 1, 64},
      {"eight heads a group, D 128", {66}, 8, 1, 128},
      {"five heads a group, two groups", {40, 30}, 10, 2, 64, -1, -1},
      {"seven heads a group, D 128", {33, 20}, 14, 2, 128, -1, -1},
      // Windows whose edges fall on every kind of place within the 16, 32 and 64 rows of a fragment, a step and a tile.
      {"window of 14 mod 16", {200}, 1, 1, 64, 78},
      {"window of 15 mod 16", {200}, 1, 1, 64, 47, 0, 1, 0, 4},
      {"window of 16", {200}, 1, 1, 128, 16, 16},
      {"window of a tile less one, both sides", {260}, 1, 1, 64, 63, 63},
      {"window of a tile, both sides", {260}, 1, 1, 64, 64, 64},
      {"window of two tiles and one", {400}, 1, 1, 64, 129, 1},
      {"window of 14 mod 16 to the right", {200}, 1, 1, 64, 1, 78},
      {"window of 30, D 128", {200}, 1, 1, 128, 30},
      {"window of 31, D 128", {200}, 1, 1, 128, 31, 1},
      {"window of 33 to the right, D 128", {170}, 1, 1, 128, 0, 33},
      // exp(0 - log_sum_exp) overflows for the zeros of padding, which lie before the next document's rows.
      {"packed, log-sum-exp below -88", {70, 50, 0, 90, 1}, 2, 1, 64, -1, 0, 1, 4},
      {"packed, log-sum-exp below -88, full", {70, 50, 33}, 1, 1, 64, -1, -1, 1, 4},
      {"packed, log-sum-exp below -88, full, D 128", {70, 50, 33}, 2, 2, 128, -1, -1, 1, 4},
      {"packed, log-sum-exp below -88, window", {140, 75}, 1, 1, 64, 20, 20, 1, 4},
      {"documents of one token", {1, 1, 1, 0, 1}, 3, 3, 64},
      {"documents of a tile", {128, 128, 64}, 1, 1, 64},
      {"documents of a tile, D 128", {64, 128, 32}, 1, 1, 128, -1, -1},
  };
}

// Shapes that nobody chose.
inline std::vector<AttentionCase> random_attention_cases(int count) {
  std::vector<AttentionCase> cases;
  std::mt19937 random(23);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    AttentionCase next;
    next.name = "random " + std::to_string(i);
    for (int documents = 1 + below(4); documents > 0; --documents) next.lengths.push_back(below(4) == 0 ? 0 : below(140));
    next.lengths.push_back(1 + below(90));
    next.kv_heads = 1 + below(2);
    next.heads = next.kv_heads * (1 + below(3));
    next.head_dim = below(3) == 0 ? 128 : 64;
    next.window_left = below(2) == 0 ? -1 : below(120);
    next.window_right = below(2) == 0 ? 0 : below(2) == 0 ? -1 : below(100);
    next.query_factor = below(3) == 0 ? 8 : 1;
    next.seed = random() % 5;
    cases.push_back(next);
  }
  return cases;
}

}  // namespace meristem::test
