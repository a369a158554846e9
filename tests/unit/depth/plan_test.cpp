#include "depth/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/catch.h"
#include "unit/depth/refusal.h"

using namespace meristem;

namespace {

using Calls = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("a plain plan calls every block once, in order") {
  CHECK(DepthPlan::plain(4).calls() == Calls{0, 1, 2, 3});
  CHECK(DepthPlan::plain(0).calls().empty());
  CHECK(DepthPlan::plain(24).is_plain());
  CHECK(DepthPlan().is_plain());
  CHECK_FALSE(DepthPlan({0, 0}).is_plain());
  CHECK_FALSE(DepthPlan({1, 2}).is_plain());
  CHECK_FALSE(DepthPlan({1, 0}).is_plain());
}

TEST_CASE("the highest block and the uncalled ones") {
  CHECK(DepthPlan().max_block() == -1);
  CHECK(DepthPlan({3, 7, 5}).max_block() == 7);
  CHECK(DepthPlan({1, 0, 1}).calls_every_block(2));
  CHECK_FALSE(DepthPlan({1, 0, 1}).calls_every_block(3));
  CHECK_FALSE(DepthPlan({1, 2}).calls_every_block(3));
}

TEST_CASE("plans are checked against the blocks") {
  const auto check = [](const DepthPlan& plan, std::int64_t blocks, bool every) { return refusal([&] { plan.check(blocks, every); }); };
  CHECK(mentions(check(DepthPlan::parse("0-4"), 4, false), "calls block 4; the model has blocks 0 to 3"));
  CHECK(mentions(check(DepthPlan({0, -1}), 4, false), "calls block -1; the model has blocks 0 to 3"));
  CHECK(mentions(check(DepthPlan::parse("0, 2"), 3, true), "never calls block 1"));
  CHECK(mentions(check(DepthPlan(), 3, false), "calls no block"));
  CHECK(check(DepthPlan::parse("0, 2"), 3, false) == "accepted");
  CHECK(check(DepthPlan::parse("2-0"), 3, true) == "accepted");
}

TEST_CASE("inference looping repeats calls behind themselves") {
  const DepthPlan plan = DepthPlan::plain(6);
  CHECK(plan.repeat(2, 2, 0) == plan);
  CHECK(plan.repeat(2, 2, 2) == DepthPlan::parse("0-1, (2-3)x3, 4-5"));
  CHECK(plan.repeat(0, 6, 1) == DepthPlan::parse("(0-5)x2"));
  CHECK(plan.repeat(5, 1, 4) == DepthPlan::parse("0-4, (5)x5"));
  CHECK(DepthPlan::parse("(0-1)x2").repeat(1, 2, 1).calls() == Calls{0, 1, 0, 1, 0, 1});  // counts calls, not blocks
}

TEST_CASE("repeats that are not there or do not fit are refused") {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  const DepthPlan plan = DepthPlan::plain(6);
  const auto repeat = [&](std::int64_t start, std::int64_t length, std::int64_t extra) {
    return refusal([&] { (void)plan.repeat(start, length, extra); });
  };
  CHECK(mentions(repeat(5, 2, 1), "cannot repeat 2 calls from call 5 on; the plan has 6 calls"));
  CHECK(mentions(repeat(-1, 2, 1), "from call -1 on"));
  CHECK(mentions(repeat(0, 0, 1), "cannot repeat 0 calls"));
  CHECK(mentions(repeat(kHuge, 1, 1), "cannot repeat"));
  CHECK(mentions(repeat(1, kHuge, 1), "cannot repeat"));
  CHECK(mentions(repeat(0, 1, -1), "-1 more repeats"));
  CHECK(mentions(repeat(0, 2, kHuge), "a plan of 65536 calls"));
  CHECK(mentions(repeat(0, 6, 65536 / 6), "a plan of 65536 calls"));
  CHECK(plan.repeat(0, 6, 65536 / 6 - 1).num_calls() == 65532);
}

TEST_CASE("a text with one group says where the plan loops") {
  const DepthPlan plan = DepthPlan::parse("0-3, (4-7)x4, 8-11");
  REQUIRE(plan.loop());
  CHECK(*plan.loop() == LoopSpan{4, 4, 4});
  CHECK(plan.has_one_loop());
  CHECK(plan.print_loop() == "0-3, (4-7)x4, 8-11");
  // A group that runs once is a loop too, and its text keeps it.
  const DepthPlan once = DepthPlan::parse("(0-2)x1, 3");
  CHECK(*once.loop() == LoopSpan{0, 3, 1});
  CHECK(once.print_loop() == "(0-2)x1, 3");
  CHECK(once.print() == "0-3");
  CHECK(once == DepthPlan::plain(4));

  for (const char* text : {"0-3", "0, 0", "(0)x2, (1)x2", "((0)x2, 1)x3", "0, (1, (2)x2)x3"}) {
    INFO(text);
    CHECK_FALSE(DepthPlan::parse(text).loop());
    CHECK_FALSE(DepthPlan::parse(text).has_one_loop());
    CHECK_THROWS_AS(DepthPlan::parse(text).with_repeats(2), InputError);
  }
  // Repeats that are written out beside or in the group would print as groups.
  for (const char* text : {"0, 0, 0, 0, (1-2)x3", "(0-1, 0-1, 0-1)x2, 2", "(0)x3, 1, 1, 1, 1"}) {
    INFO(text);
    CHECK(DepthPlan::parse(text).loop());
    CHECK_FALSE(DepthPlan::parse(text).has_one_loop());
  }
}

TEST_CASE("training takes every plan that calls every block, and equal calls alike, however they are written") {
  for (const auto& texts :
       std::vector<std::vector<const char*>>{{"(0)x2, (0)x3", "(0)x5", "0, 0, 0, 0, 0"},
                                             {"(0-1)x3, (1-3)x2", "0-1, 0-1, 0, (1)x2, 2-3, 1-3"},
                                             {"(0, (1)x2, 2, (1)x3)x2, 3", "0, 1, 1, 2, 1, 1, 1, 0, 1, 1, 2, 1, 1, 1, 3"},
                                             {"(3)x2, 0-2, (2-3)x2", "3, 3, 0, 1, 2, 2, 3, 2, 3"}}) {
    const DepthPlan first = DepthPlan::parse(texts.front());
    for (const char* text : texts) {
      INFO(text);
      const DepthPlan plan = DepthPlan::parse(text);
      CHECK(plan == first);
      CHECK(plan.print() == first.print());
      CHECK(plan.print_grouped() == first.print_grouped());
      CHECK_NOTHROW(plan.check(plan.max_block() + 1, true));
    }
  }
}

TEST_CASE("people read a plan with its loop as a group, as its calls say, not as it was written") {
  for (const auto& [text, grouped] : {std::pair{"0-7, (8-11)x2, 12-23", "0-7, (8-11)x2, 12-23"},
                                      {"0-11, 8-23", "0-7, (8-11)x2, 12-23"},
                                      {"0-3, (4-7)x4, 8-11", "0-3, (4-7)x4, 8-11"},
                                      {"0-3, (4-7)x1, 8-11", "0-11"},
                                      {"(0)x4", "(0)x4"},
                                      {"0, 0", "(0)x2"},
                                      {"0-2, 1-3", "0, (1-2)x2, 3"},
                                      {"0-1, (2-1)x2", "0, (1-2)x2, 1"},
                                      {"(0)x3, (1)x3", "(0)x3, (1)x3"},
                                      {"3-0", "3-0"},
                                      {"0", "0"},
                                      {"((0)x2, 1)x3", "(0, 0-1)x3"},
                                      {"(0-3)x100", "(0-3)x100"}}) {
    INFO(text);
    const DepthPlan plan = DepthPlan::parse(text);
    CHECK(plan.print_grouped() == grouped);
    CHECK(DepthPlan::parse(plan.print_grouped()) == plan);
    CHECK(DepthPlan(plan.calls()).print_grouped() == grouped);
  }
  for (std::int64_t repeats = 2; repeats < 6; ++repeats) {  // with_repeats, as model.loop makes it, and a text of its own
    const DepthPlan plan = DepthPlan::parse("0-1, (2-4)x1, 5").with_repeats(repeats);
    CHECK(plan.print_loop() == plan.print_grouped());
  }
}

TEST_CASE("with_repeats changes the count alone, down to one and up to the longest plan") {
  const DepthPlan plan = DepthPlan::parse("0-1, (2-3)x3, 4");
  for (const std::int64_t repeats : {1, 2, 7, 30000}) {
    const DepthPlan changed = plan.with_repeats(repeats);
    CHECK(changed.num_calls() == 3 + 2 * repeats);
    CHECK(*changed.loop() == LoopSpan{2, 2, repeats});
    CHECK(DepthPlan::parse(changed.print_loop()) == changed);
    CHECK(DepthPlan::parse(changed.print_loop()).loop() == changed.loop());
    CHECK(changed.with_repeats(3) == plan);
  }
  CHECK(plan.with_repeats(1) == DepthPlan::plain(5));
  CHECK_THROWS_WITH(plan.with_repeats(0), Catch::Contains("0 repeats"));
  CHECK_THROWS_WITH(plan.with_repeats(DepthPlan::kMaxCalls), Catch::Contains("allowed"));
}

TEST_CASE("inference looping lengthens the loop where its window is a repeat, and forgets it elsewhere") {
  const DepthPlan plan = DepthPlan::parse("0, (1-2)x2, 3");
  CHECK(*plan.repeat(1, 2, 3).loop() == LoopSpan{1, 2, 5});
  CHECK(plan.repeat(3, 2, 3) == plan.repeat(1, 2, 3));
  CHECK(*plan.repeat(3, 2, 1).loop() == LoopSpan{1, 2, 3});
  CHECK_FALSE(plan.repeat(2, 2, 1).loop());
  CHECK_FALSE(plan.repeat(0, 1, 1).loop());
}

TEST_CASE("drawn repeats have the mean that is asked for, obey the bound, and are a function of seed and step") {
  const RepeatDistribution wide{8, 0.5, 1000}, bound{8, 0.5, 10};
  double sum = 0, squares = 0;
  constexpr int kDraws = 20000;
  for (int step = 1; step <= kDraws; ++step) {
    const auto drawn = static_cast<double>(draw_repeats(wide, 3, step));
    CHECK((drawn >= 1 && drawn <= 1000));
    CHECK(draw_repeats(wide, 3, step) == static_cast<std::int64_t>(drawn));
    CHECK(draw_repeats(bound, 3, step) == std::min<std::int64_t>(10, static_cast<std::int64_t>(drawn)));
    sum += drawn;
    squares += drawn * drawn;
  }
  const double mean = sum / kDraws, variance = squares / kDraws - mean * mean;
  // Poisson with a log-normal rate of mean 7: variance 7 + 49 (e^0.25 - 1) = 20.9; four standard errors.
  CHECK(mean == Approx(8).margin(4 * std::sqrt(20.9 / kDraws)));
  CHECK(variance == Approx(20.9).epsilon(0.1));
  CHECK(draw_repeats({1, 2, 50}, 3, 4) == 1);

  int differ = 0;
  for (int step = 1; step <= 100; ++step) differ += draw_repeats(wide, 3, step) != draw_repeats(wide, 4, step);
  CHECK(differ > 50);
}
