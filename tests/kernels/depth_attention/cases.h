// The grid of problems that every version of the depth attention kernels must solve.
#pragma once

#include <random>
#include <vector>

#include "kernels/depth_attention/problem.h"

namespace meristem::test {

inline std::vector<DepthCase> depth_cases() {
  return {
      // name, N, H, G, D, M, join, factor, prior, schedule, apart, gathers
      {"one entry", 3, 1, 1, 64, 1},
      {"one token", 1, 2, 1, 64, 5, false, 1, 0, 1},
      {"a batch of entries and one", 5, 2, 2, 64, 5},
      {"odd tokens, three heads a group", 7, 6, 2, 64, 6, false, 1, 0, 2},
      {"four heads a group", 9, 4, 1, 128, 3},
      {"five heads a group", 3, 5, 1, 64, 4, false, 8},
      {"eight heads a group", 5, 16, 2, 128, 3, false, 1, 0, 3},
      {"sixteen heads a group", 2, 16, 1, 64, 3},
      {"a head a warp, as the separate kind has it", 6, 3, 3, 256, 4},
      {"two heads of a warp's width", 3, 4, 2, 256, 3},
      {"heads wider than a warp", 5, 2, 2, 384, 3, false, 1, 0, 1},
      {"heads four times as wide", 3, 1, 1, 1024, 2},
      {"lanes without columns", 11, 4, 2, 96, 4},
      {"lanes without columns, wide", 3, 1, 1, 648, 3},
      {"a lane a row", 70, 2, 2, 8, 3},
      {"sharp", 4, 2, 1, 64, 9, false, 16},
      {"so sharp that no other score than the largest can be the maximum", 4, 2, 1, 64, 9, false, 128},
      {"as sharp, a head a group", 4, 1, 1, 64, 9, false, 128},
      {"as sharp, five heads a group", 3, 5, 1, 64, 9, false, 128},
      {"as sharp, heads wider than a warp", 3, 1, 1, 384, 9, false, 128},
      {"every entry that there may be", 2, 1, 1, 64, 128},
      {"joined", 5, 4, 2, 64, 3, true},
      {"joined, eight heads a group", 9, 8, 1, 128, 5, true, 1, 2, 2},
      {"joined to far larger scores", 5, 2, 1, 64, 3, true, 1, 200},
      {"joined to far smaller scores", 5, 2, 1, 64, 3, true, 1, -200},
      {"joined, one entry", 1, 1, 1, 64, 1, true},
      {"joined, a head wider than a warp", 3, 1, 1, 520, 2, true},
      {"gradients gathered over calls", 5, 4, 2, 64, 5, false, 1, 0, 1, true, true},
      {"gathered, eight heads a group, joined", 3, 8, 1, 128, 3, true, 1, 0, 0, true, true},
      {"gathered, heads wider than a warp", 3, 1, 1, 400, 3, false, 1, 0, 0, true, true},
  };
}

// Shapes that nobody chose.
inline std::vector<DepthCase> random_depth_cases(int count) {
  std::vector<DepthCase> cases;
  std::mt19937 random(29);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    DepthCase next;
    next.name = "random " + std::to_string(i);
    next.tokens = 1 + below(12);
    next.kv_heads = 1 + below(3);
    next.heads = next.kv_heads * (1 + below(8));
    next.head_dim = 8 * (1 + below(16));
    next.entries = 1 + below(11);
    next.join = below(3) == 0;
    next.query_factor = below(3) == 0 ? 8 : 1;
    next.seed = random() % 5;
    next.gathers = below(3) == 0;
    cases.push_back(next);
  }
  return cases;
}

}  // namespace meristem::test
