// What is captured, replayed and captured anew.
#include "train/graph_cache.h"

#include "support/catch.h"
#include "unit/train/graph_fakes.h"

using namespace meristem;
using Action = GraphCache::Action;

TEST_CASE("a shape runs plainly once, then each key is captured once and replayed") {
  test::GraphCounts counts;
  GraphCache graphs(test::fake_capture(counts));
  int ran = 0;
  const auto step = [&](const GraphKey& key) { return graphs.run(key, [&] { ++ran; }); };
  const GraphKey plain{{0, 1, 2, 3}, "8x1024", false}, looped{{0, 1, 2, 3, 2, 3}, "8x1024", false}, logged{{0, 1, 2, 3}, "8x1024", true};
  CHECK(step(plain) == Action::kWarmUp);
  CHECK(counts.captures == 0);
  CHECK(step(plain) == Action::kCapture);
  CHECK(step(plain) == Action::kReplay);
  CHECK(step(looped) == Action::kCapture);  // another plan, as a sampled number of repeats makes one; its shape is warm
  CHECK(step(logged) == Action::kCapture);
  CHECK(step(plain) == Action::kReplay);
  CHECK(step({{0, 1, 2, 3}, "4x1024", false}) == Action::kWarmUp);
  CHECK(step({{0, 1, 2, 3}, "4x1024", false}) == Action::kCapture);
  CHECK((counts.captures == 4 && counts.alive == 4 && counts.replays == 6));
  CHECK(ran == 8);  // each step once, a captured one by the replay that follows
}

TEST_CASE("after a growth nothing of before is replayed") {
  test::GraphCounts counts;
  GraphCache graphs(test::fake_capture(counts));
  const GraphKey key{{0, 1, 2, 3}, "8x1024", false};
  for (int i = 0; i < 3; ++i) graphs.run(key, [] {});
  graphs.clear();
  CHECK(counts.alive == 0);
  CHECK(graphs.run(key, [] {}) == Action::kWarmUp);
  CHECK(graphs.run(key, [] {}) == Action::kCapture);
  CHECK(counts.captures == 2);
}

TEST_CASE("the graph that was not used for longest makes room") {
  test::GraphCounts counts;
  GraphCache graphs(test::fake_capture(counts), 2);
  const auto step = [&](std::int64_t block) { return graphs.run({{block}, "8x1024", false}, [] {}); };
  step(0);
  step(0);
  CHECK(step(1) == Action::kCapture);
  CHECK(step(0) == Action::kReplay);
  CHECK(step(2) == Action::kCapture);  // 1 goes
  CHECK(counts.alive == 2);
  CHECK(step(0) == Action::kReplay);
  CHECK(step(1) == Action::kCapture);
}

TEST_CASE("a capture that fails leaves the graphs as they were") {
  test::GraphCounts counts;
  bool broken = false;
  const Capture capture = [&](const std::function<void()>& body) {
    if (broken) throw std::runtime_error("no capture");
    return test::fake_capture(counts)(body);
  };
  GraphCache graphs(capture);
  for (int i = 0; i < 2; ++i) graphs.run({{0}, "s", false}, [] {});
  broken = true;
  CHECK_THROWS_WITH(graphs.run({{1}, "s", false}, [] {}), "no capture");
  CHECK(graphs.size() == 1);
  CHECK(graphs.run({{0}, "s", false}, [] {}) == Action::kReplay);
}
