#include "depth/plan.h"

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
