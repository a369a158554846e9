#include "depth/plan.h"

#include <map>

#include "core/counter_rng.h"
#include "core/errors.h"
#include "support/catch.h"

using namespace meristem;

namespace {

using Calls = std::vector<std::int64_t>;

std::string error_of(const std::string& text) {
  try {
    DepthPlan::parse(text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

// Length of the shortest text, by plain recursion over the grammar, independent of the printer.
std::size_t shortest(const Calls& calls, std::map<Calls, std::size_t>& known) {
  if (const auto found = known.find(calls); found != known.end()) return found->second;
  std::size_t best = calls.size() == 1 ? std::to_string(calls[0]).size() : 1000000;
  bool up = true, down = true;
  for (std::size_t i = 1; i < calls.size(); ++i) {
    up = up && calls[i] == calls[i - 1] + 1;
    down = down && calls[i] == calls[i - 1] - 1;
  }
  if (calls.size() > 1 && (up || down)) best = std::to_string(calls.front()).size() + 1 + std::to_string(calls.back()).size();
  for (std::size_t first = 1; first < calls.size(); ++first) {
    const Calls head(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(first)), tail(calls.begin() + static_cast<std::ptrdiff_t>(first), calls.end());
    best = std::min(best, shortest(head, known) + 2 + shortest(tail, known));
    if (calls.size() % first != 0) continue;
    bool periodic = true;
    for (std::size_t i = first; i < calls.size(); ++i) periodic = periodic && calls[i] == calls[i - first];
    if (periodic) best = std::min(best, shortest(head, known) + 3 + std::to_string(calls.size() / first).size());
  }
  return known[calls] = best;
}

}  // namespace

TEST_CASE("plans of the papers parse and print") {
  CHECK(DepthPlan::parse("0-3, (4-7)x4, 8-11").num_calls() == 24);
  CHECK(DepthPlan::parse("0-3, (4-7)x4, 8-11").print() == "0-3, (4-7)x4, 8-11");
  CHECK(DepthPlan::parse("(0-3)x6").calls().size() == 24);
  CHECK(DepthPlan::parse("3-0").calls() == Calls{3, 2, 1, 0});
  CHECK(DepthPlan::parse("((0, 2)x2, 5)x3").calls() == Calls{0, 2, 0, 2, 5, 0, 2, 0, 2, 5, 0, 2, 0, 2, 5});
  CHECK(DepthPlan::parse(" ( 0 - 1 ) x 2 ,3").calls() == Calls{0, 1, 0, 1, 3});
  CHECK(DepthPlan::plain(24).print() == "0-23");
  CHECK(DepthPlan::plain(1).print() == "0");
  CHECK(DepthPlan::plain(24).is_plain());
  CHECK_FALSE(DepthPlan::parse("0, 0").is_plain());
}

TEST_CASE("print is the shortest text, and parses back") {
  std::map<Calls, std::size_t> known;
  const auto key = stream_key(3, "plans");
  std::uint64_t at = 0;
  const auto draw = [&](std::uint64_t n) { return static_cast<std::int64_t>(random_u64(key, at++) % n); };
  for (int trial = 0; trial < 3000; ++trial) {
    Calls calls;
    const auto length = 1 + draw(9), blocks = 1 + draw(4);
    for (std::int64_t i = 0; i < length; ++i) calls.push_back(draw(static_cast<std::uint64_t>(blocks)) + (trial % 7 == 0 ? 9 : 0));
    const DepthPlan plan(calls);
    const std::string text = plan.print();
    CHECK(DepthPlan::parse(text) == plan);
    CHECK(text.size() == shortest(calls, known));
  }
}

TEST_CASE("long plans print and parse back") {
  const auto key = stream_key(4, "long plans");
  for (int trial = 0; trial < 20; ++trial) {
    Calls calls;
    for (std::uint64_t i = 0; calls.size() < 700; ++i) {
      const auto piece = DepthPlan::parse(trial % 2 ? "(0-3)x5" : "7-2").calls();
      if (random_u64(key, i + 1000 * static_cast<std::uint64_t>(trial)) % 3 == 0) calls.push_back(static_cast<std::int64_t>(i % 11));
      calls.insert(calls.end(), piece.begin(), piece.end());
    }
    const DepthPlan plan(calls);
    CHECK(DepthPlan::parse(plan.print()) == plan);
  }
  CHECK(DepthPlan::parse("(0-3)x1000").print() == "(0-3)x1000");
  CHECK(DepthPlan::plain(4000).print() == "0-3999");
}

TEST_CASE("bad plans are refused with the position") {
  const std::pair<const char*, const char*> cases[] = {
      {"", "position 0: expected a block number"},     {"0-", "position 2: expected a block number"},
      {"0,", "position 2: expected a block number"},   {"a", "position 0: expected a block number"},
      {"(0-3", "position 4: expected ')'"},            {"(0-3)", "position 5: expected 'x'"},
      {"(0-3)x", "position 6: expected a block"},      {"(0-3)x0", "at least 1"},
      {"0-3)", "position 3: expected ','"},            {"-1", "position 0: expected a block number"},
      {"99999999999999999999", "number too large"},    {"(((0)x9999)x9999)x9999", "more than 65536 calls"},
      {"0-999999", "more than 65536 calls"},           {"0 1", "position 2: expected ','"},
      {"()x3", "position 1: expected a block number"}, {"0-3 x2", "position 4: expected ','"}};
  for (const auto& [text, expected] : cases) {
    INFO(text);
    CHECK(error_of(text).find(expected) != std::string::npos);
  }
  CHECK(error_of(std::string(100000, '(')).find("nested too deeply") != std::string::npos);
}

TEST_CASE("plans are checked against the blocks") {
  CHECK_THROWS_WITH(DepthPlan::parse("0-4").check(4, false), Catch::Contains("calls block 4; the model has blocks 0 to 3"));
  CHECK_THROWS_WITH(DepthPlan::parse("0, 2").check(3, true), Catch::Contains("never calls block 1"));
  CHECK_NOTHROW(DepthPlan::parse("0, 2").check(3, false));
}

TEST_CASE("inference looping repeats calls behind themselves") {
  const DepthPlan plan = DepthPlan::plain(6);
  CHECK(plan.repeat(2, 2, 0) == plan);
  CHECK(plan.repeat(2, 2, 2) == DepthPlan::parse("0-1, (2-3)x3, 4-5"));
  CHECK(DepthPlan::parse("(0-1)x2").repeat(1, 2, 1).calls() == Calls{0, 1, 0, 1, 0, 1});  // counts calls, not blocks
  CHECK_THROWS_AS(plan.repeat(5, 2, 1), InputError);
  CHECK_THROWS_AS(plan.repeat(0, 0, 1), InputError);
}
