#include "depth/growth.h"

#include <numeric>

#include "core/errors.h"
#include "depth/plan.h"
#include "support/catch.h"

using namespace meristem;

namespace {

SourceMap map_of(const char* text) { return DepthPlan::parse(text).calls(); }

}  // namespace

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
          map_of(("0-" + std::to_string(row.blocks - 1) + ", " + std::to_string(row.blocks - 4) + "-" + std::to_string(row.blocks - 1)).c_str()));
  }
  CHECK(grow_map(GrowthOperator::kStack, 3, 3) == map_of("0-2, 0-2"));
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

TEST_CASE("every operator copies one window behind itself, for b = 1 to 5") {
  for (const GrowthOperator op : {GrowthOperator::kMidas, GrowthOperator::kLidas, GrowthOperator::kAppend}) {
    for (std::int64_t add = 1; add <= 5; ++add) {
      for (std::int64_t blocks = add; blocks <= 8 * add; blocks += add) {
        const SourceMap map = grow_map(op, blocks, add);
        REQUIRE(static_cast<std::int64_t>(map.size()) == blocks + add);
        check_source_map(map, blocks);
        const auto inserted = inserted_blocks(map);
        CHECK(std::accumulate(inserted.begin(), inserted.end(), std::int64_t{0}) == add);
        const auto first = std::find(inserted.begin(), inserted.end(), true) - inserted.begin();
        for (std::int64_t i = 0; i < add; ++i) {
          CHECK(inserted[static_cast<std::size_t>(first + i)]);
          CHECK(map[static_cast<std::size_t>(first + i)] == map[static_cast<std::size_t>(first + i - add)]);
        }
      }
    }
  }
}

TEST_CASE("impossible growth is refused") {
  CHECK_THROWS_AS(grow_map(GrowthOperator::kMidas, 6, 4), InputError);
  CHECK_THROWS_AS(grow_map(GrowthOperator::kStack, 6, 4), InputError);
  CHECK_THROWS_AS(grow_map(GrowthOperator::kLidas, 3, 4), InputError);
  CHECK_THROWS_AS(grow_map(GrowthOperator::kLidas, 3, 0), InputError);
  CHECK_THROWS_AS(parse_growth_operator("medas"), InputError);
  CHECK_THROWS_AS(check_source_map({0, 2}, 2), InputError);
  CHECK_THROWS_AS(check_source_map({0, 0}, 2), InputError);
  CHECK_THROWS_AS(check_source_map({}, 2), InputError);
  CHECK_NOTHROW(check_source_map({0, 1, 1, 2}, 3));
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
  CHECK(prop_stage_lengths(10, 4, 0) == SourceMap{3, 3, 2, 2});  // ties of the remainder go to the lower stages
  CHECK(prop_stage_lengths(7, 2, 2) == SourceMap{1, 6});
  CHECK(prop_stage_lengths(100, 1, 3) == SourceMap{100});
}
