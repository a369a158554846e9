#include "core/counter_rng.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string>
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

namespace {

std::vector<std::int64_t> permuted(std::uint64_t key, std::int64_t size) {
  const Permutation permutation(key, size);
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < size; ++i) out.push_back(permutation(i));
  return out;
}

}  // namespace

TEST_CASE("a permutation takes every place to a different one, whatever the size") {
  for (std::int64_t size = 1; size < 140; ++size) {
    auto places = permuted(static_cast<std::uint64_t>(size), size);
    std::sort(places.begin(), places.end());
    for (std::int64_t i = 0; i < size; ++i) REQUIRE(places[static_cast<std::size_t>(i)] == i);
  }
  const Permutation large(7, (std::int64_t{1} << 40) + 12345);
  std::set<std::int64_t> seen;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const std::int64_t place = large(i);
    CHECK((place >= 0 && place < large.size()));
    seen.insert(place);
  }
  CHECK(seen.size() == 1000);
}

TEST_CASE("the permutation is fixed for all time: runs are resumed by later versions") {
  CHECK(permuted(1, 10) == std::vector<std::int64_t>{4, 8, 0, 5, 7, 1, 3, 6, 2, 9});
  CHECK(Permutation(123456789, 1000003)(42) == 578416);
}

TEST_CASE("places look random: each is taken about equally often over keys") {
  constexpr int kKeys = 4000, kSize = 10;
  std::array<std::array<int, kSize>, kSize> counts{};
  for (int key = 0; key < kKeys; ++key) {
    const auto places = permuted(stream_key(3, std::to_string(key)), kSize);
    for (std::size_t i = 0; i < kSize; ++i) ++counts[i][static_cast<std::size_t>(places[i])];
  }
  double chi_square = 0;
  for (const auto& row : counts) {
    for (const int count : row) chi_square += std::pow(count - kKeys / kSize, 2) / (kKeys / kSize);
  }
  CHECK(chi_square < 150);  // 81 degrees of freedom: 150 has a probability below 1e-5
}

TEST_CASE("a tensor drawn in pieces is the tensor drawn at once") {
  std::vector<float> whole(103), pieces(103);
  meristem::fill_normal(whole.data(), 103, 0.5, 11);
  for (const auto& [first, count] : {std::pair{60, 43}, std::pair{0, 8}, std::pair{8, 52}}) {
    meristem::fill_normal(pieces.data() + first, count, 0.5, 11, first);
  }
  CHECK(whole == pieces);
  CHECK_THROWS_AS(meristem::fill_normal(pieces.data(), 4, 1, 11, 2), std::invalid_argument);
}
