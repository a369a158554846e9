#include <cmath>
#include <numeric>

#include "depth/growth.h"
#include "support/catch.h"
#include "unit/depth/refusal.h"

using namespace meristem;

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
