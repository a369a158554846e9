#include "data/mixture.h"

#include <algorithm>
#include <ctime>
#include <numeric>

#include "core/errors.h"
#include "support/catch.h"
#include "support/message_of.h"

using namespace meristem;
using namespace meristem::test;

namespace {

// The definition, in exact arithmetic on whole weights: furthest below the weight, ties in file order.
std::size_t furthest_below(const std::vector<std::int64_t>& weights, const std::vector<std::int64_t>& drawn) {
  const std::int64_t n = std::accumulate(drawn.begin(), drawn.end(), std::int64_t{0});
  const std::int64_t total = std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
  std::size_t best = 0;
  for (std::size_t i = 1; i < weights.size(); ++i) {
    if (weights[i] * (n + 1) - drawn[i] * total > weights[best] * (n + 1) - drawn[best] * total) best = i;
  }
  return best;
}

}  // namespace

TEST_CASE("the mixture draws the source furthest below its weight, ties in file order") {
  for (const std::vector<std::int64_t>& weights :
       std::vector<std::vector<std::int64_t>>{{70, 15, 9, 6}, {1, 1}, {1, 1, 1}, {3, 0, 1}, {5957, 1277, 766, 2000}}) {
    std::vector<double> shares;
    for (const auto weight : weights) shares.push_back(static_cast<double>(weight) / 100);
    Mixture mixture(shares);
    std::vector<std::int64_t> drawn(weights.size(), 0);
    const auto total = static_cast<double>(std::accumulate(weights.begin(), weights.end(), std::int64_t{0}));
    for (int n = 1; n <= 3000; ++n) {
      const std::size_t expected = furthest_below(weights, drawn);
      REQUIRE(mixture.draw() == expected);
      ++drawn[expected];
      for (std::size_t i = 0; i < weights.size(); ++i) {
        REQUIRE(std::abs(static_cast<double>(drawn[i]) - static_cast<double>(weights[i]) * n / total) <= 1);
      }
    }
    CHECK(mixture.drawn() == drawn);
  }
}

TEST_CASE("skipping draws what drawing draws") {
  for (const std::vector<double>& weights :
       std::vector<std::vector<double>>{{0.7, 0.15, 0.09, 0.06}, {0.333333333, 0.1, 0.7}, {1e6, 1e-3}}) {
    for (const std::int64_t before : {0, 1, 17}) {
      for (const std::int64_t count : {0, 1, 99, 100, 12345}) {
        Mixture one(weights), other(weights);
        for (std::int64_t i = 0; i < before; ++i) one.draw(), other.draw();
        one.skip(count);
        for (std::int64_t i = 0; i < count; ++i) other.draw();
        REQUIRE(one.drawn() == other.drawn());
        for (int i = 0; i < 50; ++i) REQUIRE(one.draw() == other.draw());
      }
    }
  }
}

TEST_CASE("a mixture goes on from its counts, and knows counts that it cannot have made") {
  Mixture mixture({0.7, 0.2, 0.1});
  for (int i = 0; i < 1234; ++i) mixture.draw();
  Mixture restored({0.7, 0.2, 0.1});
  REQUIRE(restored.restore(mixture.drawn()));
  for (int i = 0; i < 100; ++i) REQUIRE(restored.draw() == mixture.draw());
  CHECK_FALSE(restored.restore({10, 10, 10}));
  CHECK_FALSE(restored.restore({-1, 0, 0}));
  CHECK_FALSE(restored.restore({1, 0}));
  CHECK_FALSE(restored.restore({std::int64_t{1} << 60, std::int64_t{1} << 60, 0}));
}

TEST_CASE("weights that cannot be held are refused") {
  for (const std::vector<double>& weights :
       std::vector<std::vector<double>>{{-1.0, 2.0}, {0.0, 0.0}, {}, {1e-12, 1}, {1e7, 1}, {std::nan(""), 1}, {INFINITY}}) {
    CHECK_THROWS_AS(Mixture(weights), InputError);
  }
}

TEST_CASE("a hundred million sequences are counted in less than two seconds, whatever the weights") {
  const std::clock_t begin = std::clock();  // of this process: other work on the machine must not fail the test
  Mixture mixture({0.700000001, 0.15, 0.09, 0.06});
  mixture.skip(100'000'000);
  CHECK(std::accumulate(mixture.drawn().begin(), mixture.drawn().end(), std::int64_t{0}) == 100'000'000);
  CHECK(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC < 2);
}
