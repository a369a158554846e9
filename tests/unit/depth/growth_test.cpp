#include "depth/growth.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "depth/plan.h"
#include "support/catch.h"
#include "unit/depth/refusal.h"

using namespace meristem;

namespace {

SourceMap map_of(const char* text) { return DepthPlan::parse(text).calls(); }

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Where the inserted copies stand in the new model; they must stand together.
struct Window {
  std::int64_t begin = 0, size = 0;
};
Window copied_window(const SourceMap& map) {
  const auto inserted = inserted_blocks(map);
  const auto first = std::find(inserted.begin(), inserted.end(), true), last = std::find(first, inserted.end(), false);
  CHECK(std::find(last, inserted.end(), true) == inserted.end());
  return {first - inserted.begin(), last - first};
}

SourceMap without(const SourceMap& map, const std::vector<bool>& dropped) {
  SourceMap kept;
  for (std::size_t i = 0; i < map.size(); ++i) {
    if (!dropped[i]) kept.push_back(map[i]);
  }
  return kept;
}

}  // namespace

TEST_CASE("calls without the inserted blocks") {
  CHECK(same_calls_without_inserted(map_of("0-3"), map_of("0-7"), grow_map(GrowthOperator::kLidas, 4, 4)));
  CHECK(same_calls_without_inserted({0, 1, 1}, {0, 1, 2, 1, 2}, {0, 1, 1}));
  CHECK_FALSE(same_calls_without_inserted({0, 1}, {0, 1, 2, 1}, {0, 1, 1}));
  CHECK_FALSE(same_calls_without_inserted({0, 1}, {0, 1, 2}, {1, 0, 1}));
}

TEST_CASE("gather maps from 4 to 24 blocks are the published ones") {
  struct Row {
    std::int64_t blocks;
    const char *midas, *lidas;
  };
  const Row rows[] = {{4, "0-3, 0-3", "0-3, 0-3"},
                      {8, "0-3, 0-3, 4-7", "0-5, 2-5, 6-7"},
                      {12, "0-7, 4-7, 8-11", "0-7, 4-7, 8-11"},
                      {16, "0-7, 4-7, 8-15", "0-9, 6-9, 10-15"},
                      {20, "0-11, 8-11, 12-19", "0-11, 8-11, 12-19"}};
  for (const Row& row : rows) {
    INFO(row.blocks);
    CHECK(grow_map(GrowthOperator::kMidas, row.blocks, 4) == map_of(row.midas));
    CHECK(grow_map(GrowthOperator::kLidas, row.blocks, 4) == map_of(row.lidas));
    CHECK(grow_map(GrowthOperator::kAppend, row.blocks, 4) ==
          map_of(("0-" + std::to_string(row.blocks - 1) + ", " + std::to_string(row.blocks - 4) + "-" + std::to_string(row.blocks - 1))
                     .c_str()));
  }
  CHECK(grow_map(GrowthOperator::kStack, 3, 3) == map_of("0-2, 0-2"));
  CHECK(parse_growth_operator("midas") == GrowthOperator::kMidas);
  CHECK(parse_growth_operator("lidas") == GrowthOperator::kLidas);
  CHECK(parse_growth_operator("append") == GrowthOperator::kAppend);
  CHECK(parse_growth_operator("stack") == GrowthOperator::kStack);
}

TEST_CASE("small and odd growth maps, by hand") {
  CHECK(grow_map(GrowthOperator::kLidas, 4, 1) == map_of("0-1, 1, 2-3"));     // window [1, 2)
  CHECK(grow_map(GrowthOperator::kLidas, 5, 1) == map_of("0-2, 2, 3-4"));     // the middle block of five
  CHECK(grow_map(GrowthOperator::kLidas, 6, 2) == map_of("0-3, 2-3, 4-5"));   // window [2, 4)
  CHECK(grow_map(GrowthOperator::kLidas, 6, 3) == map_of("0-3, 1-3, 4-5"));   // window [1, 4)
  CHECK(grow_map(GrowthOperator::kLidas, 9, 3) == map_of("0-5, 3-5, 6-8"));   // window [3, 6)
  CHECK(grow_map(GrowthOperator::kLidas, 10, 5) == map_of("0-6, 2-6, 7-9"));  // window [2, 7)
  CHECK(grow_map(GrowthOperator::kMidas, 6, 2) == map_of("0-3, 2-3, 4-5"));   // group 1 of 3
  CHECK(grow_map(GrowthOperator::kMidas, 10, 5) == map_of("0-4, 0-4, 5-9"));  // group 0 of 2
  CHECK(grow_map(GrowthOperator::kMidas, 5, 1) == map_of("0-2, 2, 3-4"));
}

// For L = b, 2b, … 8b the first block of the copied window, worked out by hand from the formulas of docs/growth.md:
// MIDAS (ceil(n/2) - 1) b with n = L / b, LIDAS ceil(L/2) - ceil(b/2).
TEST_CASE("the window that is copied, for b = 1 to 5") {
  struct Row {
    std::int64_t add;
    SourceMap midas, lidas;
  };
  const Row rows[] = {{1, {0, 0, 1, 1, 2, 2, 3, 3}, {0, 0, 1, 1, 2, 2, 3, 3}},
                      {2, {0, 0, 2, 2, 4, 4, 6, 6}, {0, 1, 2, 3, 4, 5, 6, 7}},
                      {3, {0, 0, 3, 3, 6, 6, 9, 9}, {0, 1, 3, 4, 6, 7, 9, 10}},
                      {4, {0, 0, 4, 4, 8, 8, 12, 12}, {0, 2, 4, 6, 8, 10, 12, 14}},
                      {5, {0, 0, 5, 5, 10, 10, 15, 15}, {0, 2, 5, 7, 10, 12, 15, 17}}};
  for (const Row& row : rows) {
    for (std::int64_t groups = 1; groups <= 8; ++groups) {
      INFO("b = " << row.add << ", " << groups * row.add << " blocks");
      const auto copied_from = [&](std::int64_t begin) {  // 0 … begin + b - 1, then the window again, then the rest
        SourceMap map;
        for (std::int64_t i = 0; i < begin + row.add; ++i) map.push_back(i);
        for (std::int64_t i = begin; i < groups * row.add; ++i) map.push_back(i);
        return map;
      };
      CHECK(grow_map(GrowthOperator::kMidas, groups * row.add, row.add) == copied_from(row.midas[index(groups - 1)]));
      CHECK(grow_map(GrowthOperator::kLidas, groups * row.add, row.add) == copied_from(row.lidas[index(groups - 1)]));
    }
  }
}

TEST_CASE("every operator copies one window behind itself, for b = 1 to 5") {
  for (const GrowthOperator op : {GrowthOperator::kMidas, GrowthOperator::kLidas, GrowthOperator::kAppend}) {
    for (std::int64_t add = 1; add <= 5; ++add) {
      for (std::int64_t blocks = add; blocks <= 8 * add; blocks += add) {
        const SourceMap map = grow_map(op, blocks, add);
        REQUIRE(static_cast<std::int64_t>(map.size()) == blocks + add);
        check_source_map(map, blocks);
        CHECK(without(map, inserted_blocks(map)) == DepthPlan::plain(blocks).calls());  // the old blocks, in their order
        const Window copy = copied_window(map);
        REQUIRE(copy.size == add);
        for (std::int64_t i = copy.begin; i < copy.begin + add; ++i) CHECK(map[index(i)] == map[index(i - add)]);
      }
    }
  }
}

TEST_CASE("MIDAS and LIDAS copy the middle, append the top") {
  for (std::int64_t add = 1; add <= 5; ++add) {
    for (std::int64_t blocks = add; blocks <= 8 * add; blocks += add) {
      INFO(blocks << " + " << add);
      const std::int64_t groups = blocks / add;
      // The source window is [begin - add, begin) of the copy's place.
      const std::int64_t midas = copied_window(grow_map(GrowthOperator::kMidas, blocks, add)).begin - add;
      const std::int64_t lidas = copied_window(grow_map(GrowthOperator::kLidas, blocks, add)).begin - add;
      CHECK(midas % add == 0);
      CHECK(midas / add == (groups % 2 == 1 ? groups / 2 : groups / 2 - 1));  // the middle group, of two middle ones the lower
      // Blocks below and above LIDAS' window differ by one at most; with an even remainder not at all.
      const std::int64_t below = lidas, above = blocks - lidas - add;
      CHECK(std::abs(below - above) == (blocks - add) % 2);
      if (groups % 2 == 1) CHECK(midas == lidas);
      CHECK(copied_window(grow_map(GrowthOperator::kAppend, blocks, add)).begin == blocks);
    }
  }
}

TEST_CASE("grown step by step, every block keeps its ancestor's place modulo b") {
  for (const GrowthOperator op : {GrowthOperator::kMidas, GrowthOperator::kLidas, GrowthOperator::kAppend}) {
    for (std::int64_t add = 1; add <= 5; ++add) {
      SourceMap ancestor = DepthPlan::plain(add).calls();
      while (static_cast<std::int64_t>(ancestor.size()) < 8 * add) {
        SourceMap grown;
        for (const std::int64_t source : grow_map(op, static_cast<std::int64_t>(ancestor.size()), add)) {
          grown.push_back(ancestor[index(source)]);
        }
        ancestor = grown;
        for (std::size_t i = 0; i < ancestor.size(); ++i) CHECK(ancestor[i] == static_cast<std::int64_t>(i) % add);
      }
    }
  }
}

TEST_CASE("impossible growth is refused, with the rule that it breaks") {
  const auto grow = [](GrowthOperator op, std::int64_t blocks, std::int64_t add) { return refusal([=] { grow_map(op, blocks, add); }); };
  CHECK(mentions(grow(GrowthOperator::kMidas, 6, 4), "midas copies one group of 4 blocks; 6 blocks are no multiple"));
  CHECK(mentions(grow(GrowthOperator::kStack, 6, 4), "stack doubles the model"));
  CHECK(mentions(grow(GrowthOperator::kLidas, 3, 4), "cannot add 4 blocks to 3"));
  CHECK(mentions(grow(GrowthOperator::kLidas, 3, 0), "cannot add 0 blocks"));
  CHECK(mentions(grow(GrowthOperator::kAppend, 3, -1), "cannot add -1 blocks"));
  CHECK(mentions(grow(GrowthOperator::kMidas, 0, 1), "cannot add 1 blocks to 0"));
  CHECK(mentions(refusal([] { parse_growth_operator("medas"); }), "'medas'; allowed: midas, lidas, append, stack (did you mean midas?)"));
  CHECK(mentions(refusal([] { parse_growth_operator(""); }), "allowed: midas"));
}

TEST_CASE("hand-written maps are checked") {
  CHECK_NOTHROW(check_source_map({0, 1, 1, 2}, 3));
  CHECK_NOTHROW(check_source_map({2, 1, 0}, 3));  // an order of one's own
  CHECK(mentions(refusal([] { check_source_map({0, 2}, 2); }), "entry 1 is 2; allowed: blocks 0 to 1"));
  CHECK(mentions(refusal([] { check_source_map({-1, 0}, 1); }), "entry 0 is -1"));
  CHECK(mentions(refusal([] { check_source_map({0, 0}, 2); }), "block 1 is used nowhere"));
  CHECK(mentions(refusal([] { check_source_map({}, 2); }), "is empty"));
  CHECK(mentions(refusal([] { check_source_map({0}, 0); }), "entry 0 is 0"));
  CHECK(inserted_blocks({0, 1, 1, 0, 2}) == std::vector<bool>{false, false, true, true, false});
}

TEST_CASE("PROP schedules give the published growth steps") {
  const auto boundaries = [](std::int64_t total, std::int64_t stages, double alpha) {
    auto lengths = prop_stage_lengths(total, stages, alpha);
    CHECK(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}) == total);
    std::partial_sum(lengths.begin(), lengths.end(), lengths.begin());
    lengths.pop_back();
    return lengths;
  };
  CHECK(boundaries(170000, 6, 1) == SourceMap{8095, 24286, 48572, 80953, 121429});
  CHECK(boundaries(170000, 8, 1) == SourceMap{4722, 14166, 28333, 47222, 70833, 99166, 132222});
  CHECK(prop_stage_lengths(170000, 6, 1) == SourceMap{8095, 16191, 24286, 32381, 40476, 48571});
}

TEST_CASE("PROP: largest remainders, ties to the lower stage") {
  CHECK(prop_stage_lengths(10, 4, 0) == SourceMap{3, 3, 2, 2});   // 2.5 each
  CHECK(prop_stage_lengths(9, 2, 1) == SourceMap{3, 6});          // whole shares stay whole
  CHECK(prop_stage_lengths(5, 4, 1) == SourceMap{1, 1, 1, 2});    // 0.5 1 1.5 2: a tie of the first and the third
  CHECK(prop_stage_lengths(7, 2, 2) == SourceMap{1, 6});          // 1.4 5.6
  CHECK(prop_stage_lengths(8, 3, 1) == SourceMap{1, 3, 4});       // 1.33 2.67 4
  CHECK(prop_stage_lengths(10, 4, -1) == SourceMap{5, 2, 2, 1});  // 4.8 2.4 1.6 1.2
  CHECK(prop_stage_lengths(100, 1, 3) == SourceMap{100});
  CHECK(prop_stage_lengths(0, 3, 1) == SourceMap{0, 0, 0});
  CHECK(prop_stage_lengths(2, 3, 1) == SourceMap{0, 1, 1});  // 0.33 0.67 1
}

TEST_CASE("PROP: the lengths sum to the total and stay within one of their share") {
  for (const double alpha : {0.0, 0.5, 1.0, 2.0, 3.0}) {
    for (const std::int64_t total : {std::int64_t{1}, std::int64_t{997}, std::int64_t{170000}, std::int64_t{15'000'000'000'001}}) {
      for (std::int64_t stages = 1; stages <= 12; ++stages) {
        const auto lengths = prop_stage_lengths(total, stages, alpha);
        CHECK(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}) == total);
        double sum = 0;
        for (std::int64_t i = 1; i <= stages; ++i) sum += std::pow(i, alpha);
        for (std::int64_t i = 1; i <= stages; ++i) {
          CHECK(std::abs(static_cast<double>(lengths[static_cast<std::size_t>(i - 1)]) -
                         static_cast<double>(total) * std::pow(i, alpha) / sum) < 1.01);
        }
      }
    }
  }
  CHECK(mentions(refusal([] { prop_stage_lengths(100, 0, 1); }), "0 stages"));
  CHECK(mentions(refusal([] { prop_stage_lengths(-1, 2, 1); }), "-1 steps"));
  CHECK(mentions(refusal([] { prop_stage_lengths(100, 4, std::nan("")); }), "alpha nan"));
  CHECK(mentions(refusal([] { prop_stage_lengths(100, 4, 1e9); }), "no usable exponent"));
}
