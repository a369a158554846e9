#include <algorithm>
#include <chrono>
#include <map>

#include "core/counter_rng.h"
#include "depth/plan.h"
#include "support/catch.h"
#include "unit/depth/refusal.h"

using namespace meristem;

namespace {

using Calls = std::vector<std::int64_t>;

Calls calls_of(const std::string& text) { return DepthPlan::parse(text).calls(); }
std::string error_of(const std::string& text) {
  return refusal([&] { DepthPlan::parse(text); });
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
    const Calls head(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(first)),
        tail(calls.begin() + static_cast<std::ptrdiff_t>(first), calls.end());
    best = std::min(best, shortest(head, known) + 2 + shortest(tail, known));
    if (calls.size() % first != 0) continue;
    bool periodic = true;
    for (std::size_t i = first; i < calls.size(); ++i) periodic = periodic && calls[i] == calls[i - first];
    if (periodic) best = std::min(best, shortest(head, known) + 3 + std::to_string(calls.size() / first).size());
  }
  return known[calls] = best;
}

// Random numbers in order, from one stream.
class Draws {
 public:
  explicit Draws(const char* name) : key_(stream_key(3, name)) {}
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_u64(key_, at_++) % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t key_, at_ = 0;
};

// A random text of the grammar, written as a person would: ranges, repeats of 2 or more, ", ".
std::string random_text(Draws& draw, int nesting) {
  std::string text;
  for (std::int64_t items = 1 + draw.below(3); items > 0; --items) {
    if (!text.empty()) text += ", ";
    if (nesting > 0 && draw.below(3) == 0) {
      text += "(" + random_text(draw, nesting - 1) + ")x" + std::to_string(2 + draw.below(3));
    } else {
      text += std::to_string(draw.below(14));
      if (draw.below(2) == 0) text += "-" + std::to_string(draw.below(14));
    }
  }
  return text;
}

std::string printed(const char* text) { return DepthPlan::parse(text).print(); }

}  // namespace

TEST_CASE("semicolons will do for commas, at every level") {
  for (const char* text : {"0-3, (4-7)x4, 8-11", "(0, 1)x2, 2", "0, 2, 1"}) {
    std::string other = text;
    std::replace(other.begin(), other.end(), ',', ';');
    CHECK(DepthPlan::parse(other) == DepthPlan::parse(text));
    CHECK(DepthPlan::parse(other).loop() == DepthPlan::parse(text).loop());
    CHECK(DepthPlan::parse(other).print() == DepthPlan::parse(text).print());
  }
  CHECK(DepthPlan::parse("0, 1;2") == DepthPlan::plain(3));
}

TEST_CASE("the grammar") {
  CHECK(calls_of("7") == Calls{7});
  CHECK(calls_of("0-3") == Calls{0, 1, 2, 3});
  CHECK(calls_of("3-0") == Calls{3, 2, 1, 0});
  CHECK(calls_of("2-2") == Calls{2});
  CHECK(calls_of("(0-1)x1") == Calls{0, 1});
  CHECK(calls_of("((0, 2)x2, 5)x3") == Calls{0, 2, 0, 2, 5, 0, 2, 0, 2, 5, 0, 2, 0, 2, 5});
  CHECK(calls_of(" ( 0 - 1 ) x 2 ,3 ") == Calls{0, 1, 0, 1, 3});
  CHECK(calls_of("0-3, (4-7)x4, 8-11").size() == 24);
  CHECK(calls_of("0-65535").size() == 65536);
  CHECK(calls_of("((0-255)x16)x16").size() == 65536);
}

TEST_CASE("bad plans are refused with the position") {
  const std::pair<const char*, const char*> cases[] = {
      {"", "position 0: expected a block number"},
      {"  ", "position 2: expected a block number"},
      {"a", "position 0: expected a block number"},
      {"-1", "position 0: expected a block number"},
      {"+1", "position 0: expected a block number"},
      {",", "position 0: expected a block number"},
      {"x3", "position 0: expected a block number"},
      {")", "position 0: expected a block number"},
      {"0-", "position 2: expected a block number"},
      {"0--1", "position 2: expected a block number"},
      {"0,", "position 2: expected a block number"},
      {"0,,1", "position 2: expected a block number"},
      {"()x3", "position 1: expected a block number"},
      {"0 1", "position 2: expected ','"},
      {"0:1", "position 1: expected ','"},
      {"0;", "position 2: expected a block number"},
      {"0;,1", "position 2: expected a block number"},
      {"0-3)", "position 3: expected ','"},
      {"0-3-5", "position 3: expected ','"},
      {"0-3 x2", "position 4: expected ','"},
      {"0.5", "position 1: expected ','"},
      {"1e3", "position 1: expected ','"},
      {"0\n", "position 1: expected ','"},
      {"(0-3)x2x2", "position 7: expected ','"},
      {"(0-3", "position 4: expected ')'"},
      {"((0)x2", "position 6: expected ')'"},
      {"(0-3)", "position 5: expected 'x'"},
      {"(0-3)*2", "position 5: expected 'x'"},
      {"(0-3)X2", "position 5: expected 'x'"},
      {"(0-3)x", "position 6: expected the number of repeats"},
      {"(0-3)x-2", "position 6: expected the number of repeats"},
      {"(0-3)x0", "position 6: a repeat count must be at least 1"},
      {"(0)x2, (0-3)x00", "position 13: a repeat count must be at least 1"},
      {"0, 99999999999999999999", "position 3: number too large"},
      {"(0)x9223372036854775808", "position 4: number too large"},
      {"0-18446744073709551616", "position 2: number too large"},
      {"0-999999", "position 0: more than 65536 calls"},
      {"999999-0", "position 0: more than 65536 calls"},
      {"0-65535, 0", "position 9: more than 65536 calls"},
      {"(0-3)x16385", "position 6: more than 65536 calls"},
      {"(((0)x9999)x9999)x9999", "position 12: more than 65536 calls"},
  };
  for (const auto& [text, expected] : cases) {
    INFO(text);
    const std::string message = error_of(text);
    INFO(message);
    CHECK(mentions(message, expected));
  }
}

TEST_CASE("garbage is refused in one printable line") {
  const std::string message = error_of(std::string("0\n\x1b[31m\xff\0 1", 10));
  CHECK(mentions(message, "position 1: expected ','"));
  CHECK(mentions(message, "\\x0a"));
  for (const char c : message) CHECK(static_cast<unsigned char>(c) >= 0x20);
  CHECK(error_of(std::string(500, 'z')).size() < 200);
  CHECK(mentions(error_of(std::string(2'000'000, '0')), "longer than a plan can be"));
}

TEST_CASE("nesting is bounded") {
  const auto nested = [](int depth) {
    std::string text(static_cast<std::size_t>(depth), '(');
    text += "0";
    for (int i = 0; i < depth; ++i) text += ")x1";
    return text;
  };
  CHECK(calls_of(nested(32)) == Calls{0});
  CHECK(mentions(error_of(nested(33)), "position 33: nested too deeply"));
  CHECK(mentions(error_of(std::string(1'000'000, '(')), "nested too deeply"));
}

TEST_CASE("a text that would explode is refused before it costs anything") {
  std::string text = "0";
  for (int level = 0; level < 30; ++level) text = "(" + text + ", 1)x9999";
  const auto start = std::chrono::steady_clock::now();
  CHECK(mentions(error_of(text), "more than 65536 calls"));
  // Many full-size pieces: each is bounded by itself, and their sum too.
  std::string many = "(0)x60000";
  for (int i = 0; i < 1000; ++i) many += ", (0)x60000";
  CHECK(mentions(error_of(many), "position 11: more than 65536 calls"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("plans of the papers print as they are written") {
  for (const char* text : {"0", "0-23", "(0-3)x6", "0-3, (4-7)x4, 8-11", "0-5, 7-11", "23-0", "((0-3)x2, 5)x3", "(0)x16"}) {
    CHECK(printed(text) == text);
  }
  CHECK(DepthPlan().print() == "");
}

TEST_CASE("one plan has one print, whatever text it came from") {
  CHECK(printed("0, 1") == "0-1");
  CHECK(printed("1, 0") == "1-0");
  CHECK(printed("0, 0") == "0, 0");  // "(0)x2" is longer
  CHECK(printed("0, 0, 0") == "(0)x3");
  CHECK(printed("10, 10") == "(10)x2");  // as long as "10, 10": ties go to repeats
  CHECK(printed("(0-3)x1") == "0-3");
  CHECK(printed("3-3") == "3");
  CHECK(printed("0-1, 2-3") == "0-3");
  CHECK(printed("0-3, 2-0") == "0-2, 3-0");                // as long as "0-3, 2-0": ties split from the left
  CHECK(printed("0-7, (8-11)x2, 12-23") == "0-11, 8-23");  // the same calls, shorter
  CHECK(printed("0-7, (8-11)x4, 12-23") == "0-7, (8-11)x3, 8-23");
  CHECK(printed("0-3, 0-3") == "(0-3)x2");
  CHECK(printed("((0-3)x2)x3") == "(0-3)x6");
  CHECK(printed("0-5, 4-5, 4-7") == "0-5, 4-5, 4-7");
  CHECK(printed("((0, 2)x2, 5)x3, (0, 2)x2") == printed("0, 2, 0, 2, ((5, 0, 2)x1, 0, 2)x3"));
}

TEST_CASE("print is the shortest text, for every plan of up to 6 calls and for random longer ones") {
  std::map<Calls, std::size_t> known;
  const auto check = [&](const Calls& calls) {
    const DepthPlan plan(calls);
    const std::string text = plan.print();
    INFO(text);
    CHECK(DepthPlan::parse(text) == plan);
    CHECK(text.size() == shortest(calls, known));
  };
  for (std::size_t length = 1; length <= 6; ++length) {
    for (Calls calls(length, 0);;) {
      check(calls);
      std::size_t place = 0;
      while (place < length && ++calls[place] == 3) calls[place++] = 0;
      if (place == length) break;
    }
  }
  Draws draw("plans");
  for (int trial = 0; trial < 3000; ++trial) {
    Calls calls;
    const auto length = 1 + draw.below(14), blocks = 1 + draw.below(4);
    for (std::int64_t i = 0; i < length; ++i) calls.push_back(draw.below(blocks) + (trial % 7 == 0 ? 9 : 0));
    check(calls);
  }
}

TEST_CASE("random texts: the print parses back and is never longer") {
  Draws draw("texts");
  int nested = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    const std::string text = random_text(draw, static_cast<int>(draw.below(4)));
    INFO(text);
    const DepthPlan plan = DepthPlan::parse(text);
    if (plan.num_calls() > 120) continue;  // those have a case of their own
    const std::string print = plan.print();
    CHECK(DepthPlan::parse(print) == plan);
    CHECK(print.size() <= text.size());
    CHECK(DepthPlan::parse(print).print() == print);
    nested += print.find("((") != std::string::npos || print.find(", (") != std::string::npos;
  }
  CHECK(nested > 300);  // the draw reaches what it is meant to reach
}

TEST_CASE("long plans print and parse back") {
  Draws draw("long plans");
  for (int trial = 0; trial < 20; ++trial) {
    Calls calls;
    const auto piece = DepthPlan::parse(trial % 2 ? "(0-3)x5" : "7-2").calls();
    for (std::int64_t i = 0; calls.size() < 700; ++i) {
      if (draw.below(3) == 0) calls.push_back(i % 11);
      calls.insert(calls.end(), piece.begin(), piece.end());
    }
    const DepthPlan plan(calls);
    CHECK(DepthPlan::parse(plan.print()) == plan);
  }
  for (const char* text :
       {"(0-3)x1000", "0-3999", "3999-0", "((0-3)x2, 5)x100", "0-3, (4-7)x200, 8-11", "(0)x65536", "0-65535", "(0-31)x40"}) {
    CHECK(printed(text) == text);
  }
}
