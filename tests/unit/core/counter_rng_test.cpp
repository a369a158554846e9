#include "core/counter_rng.h"

#include <cmath>
#include <vector>

#include "support/catch.h"

using namespace meristem;

TEST_CASE("philox agrees with the published known answers") {
  // Random123's kat_vectors, philox4x32-10, counter and key zero.
  const auto words = philox(0, 0);
  CHECK(words[0] == 0x6627e8d5u);
  CHECK(words[1] == 0xe169c58du);
  CHECK(words[2] == 0xbc57ac4cu);
  CHECK(words[3] == 0x9b00dbd8u);
}

TEST_CASE("normal numbers have the asked mean and deviation, and each is a function of its index") {
  std::vector<float> all(100001), head(7);
  const auto key = stream_key(1, "test");
  fill_normal(all.data(), static_cast<std::int64_t>(all.size()), 0.02, key);
  fill_normal(head.data(), static_cast<std::int64_t>(head.size()), 0.02, key);
  for (std::size_t i = 0; i < head.size(); ++i) CHECK(head[i] == all[i]);
  double sum = 0, squares = 0;
  for (const float x : all) {
    sum += x;
    squares += double{x} * x;
  }
  const double n = static_cast<double>(all.size());
  CHECK(std::abs(sum / n) < 4 * 0.02 / std::sqrt(n));
  CHECK(std::sqrt(squares / n) == Approx(0.02).epsilon(0.02));
}
