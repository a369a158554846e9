#include <chrono>

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

}  // namespace

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
      {"0;1", "position 1: expected ','"},
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
