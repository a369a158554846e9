// The order of documents and sources, free of loaders and threads.
#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <numeric>
#include <set>

#include "core/counter_rng.h"
#include "data/mixture.h"
#include "data/permutation.h"
#include "data/token_stream.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

std::vector<std::int64_t> permuted(std::uint64_t key, std::int64_t size) {
  const Permutation permutation(key, size);
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < size; ++i) out.push_back(permutation(i));
  return out;
}

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

TEST_CASE("a stream holds every token once an epoch, documents whole and in a new order each epoch") {
  const TempDir folder;
  for (const int trial : {0, 1, 2, 3, 4, 5}) {
    const auto key = static_cast<std::uint64_t>(trial);
    std::vector<std::int64_t> lengths(1 + random_u64(key, 0) % 70);
    for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<std::int64_t>(random_u64(key, i + 1) % 9);
    lengths[0] += 1;
    const std::string name = "x" + std::to_string(trial);
    const Documents documents = counting_documents(lengths);
    write_shard(folder / name, documents, 1 << 20);
    const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / name));
    const std::int64_t tokens = source->num_tokens();
    TokenStream stream(source, 5, name);
    std::set<std::vector<std::int32_t>> orders;
    constexpr std::int64_t kEpochs = 3;
    for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      std::vector<std::int32_t> ids;
      const std::int64_t odd = 1 + trial;  // pieces that do not fit the documents
      for (std::int64_t at = 0; at < tokens; at += odd) {
        for (const DocumentSlice& slice : stream.slices(epoch * tokens + at, std::min(odd, tokens - at))) {
          const auto& document = documents[static_cast<std::size_t>(slice.document)];
          REQUIRE(slice.count > 0);
          for (std::int64_t i = 0; i < slice.count; ++i) ids.push_back(document.at(static_cast<std::size_t>(slice.begin + i)));
        }
      }
      orders.insert(ids);
      std::vector<std::int32_t> first_of;  // documents stay whole: ids go up by one but where a document begins
      for (std::size_t i = 1; i < ids.size(); ++i) {
        const bool begins = std::any_of(documents.begin(), documents.end(), [&](const auto& d) { return !d.empty() && d[0] == ids[i]; });
        REQUIRE((begins || ids[i] == ids[i - 1] + 1));
      }
      std::sort(ids.begin(), ids.end());
      for (std::int64_t i = 0; i < tokens; ++i) REQUIRE(ids[static_cast<std::size_t>(i)] == i);
    }
    if (lengths.size() > 10) CHECK(orders.size() == kEpochs);
  }
}

TEST_CASE("the order depends on seed and name, and slices may span epochs") {
  const TempDir folder;
  write_shard(folder / "x", counting_documents(std::vector<std::int64_t>(40, 1)), 40);
  const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / "x"));
  const auto order = [&](std::uint64_t seed, const std::string& name, std::int64_t offset, std::int64_t count) {
    std::vector<std::int64_t> documents;
    for (const DocumentSlice& slice : TokenStream(source, seed, name).slices(offset, count)) documents.push_back(slice.document);
    return documents;
  };
  CHECK(order(1, "a", 0, 40) == order(1, "a", 0, 40));
  CHECK(order(1, "a", 0, 40) != order(2, "a", 0, 40));
  CHECK(order(1, "a", 0, 40) != order(1, "b", 0, 40));
  const auto both = order(1, "a", 0, 80);
  CHECK(order(1, "a", 30, 25) == std::vector<std::int64_t>(both.begin() + 30, both.begin() + 55));
}

TEST_CASE("slices asked for in any order are those of a stream read from its start") {
  const TempDir folder;
  std::vector<std::int64_t> lengths;
  for (std::uint64_t i = 0; i < 90; ++i) lengths.push_back(static_cast<std::int64_t>(random_u64(8, i) % 7));
  write_shard(folder / "x", counting_documents(lengths), 1 << 20);
  const auto source = std::make_shared<const TokenSource>(TokenSource::open(folder / "x"));
  const std::int64_t tokens = 3 * source->num_tokens();
  // Token by token: (document, place in it).
  std::vector<std::pair<std::int64_t, std::int64_t>> expected;
  TokenStream forward(source, 5, "x"), anyhow(source, 5, "x");
  const auto put = [](const std::vector<DocumentSlice>& slices, auto& out) {
    for (const DocumentSlice& slice : slices) {
      for (std::int64_t i = 0; i < slice.count; ++i) out.emplace_back(slice.document, slice.begin + i);
    }
  };
  for (std::int64_t at = 0; at < tokens; ++at) put(forward.slices(at, 1), expected);
  for (std::uint64_t trial = 0; trial < 300; ++trial) {
    const auto at = static_cast<std::int64_t>(random_u64(9, 2 * trial) % static_cast<std::uint64_t>(tokens));
    const std::int64_t count = std::min<std::int64_t>(tokens - at, 1 + static_cast<std::int64_t>(random_u64(9, 2 * trial + 1) % 60));
    std::vector<std::pair<std::int64_t, std::int64_t>> found;
    put(anyhow.slices(at, count), found);
    REQUIRE(found == std::vector(expected.begin() + at, expected.begin() + at + count));
  }
}

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
