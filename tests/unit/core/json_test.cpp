#include "core/json.h"

#include <string>
#include <utility>
#include <vector>

#include "core/errors.h"
#include "support/catch.h"

using namespace meristem;

namespace {

// The message of the DamagedError that parsing must throw.
std::string refusal(const std::string& text) {
  try {
    parse_json_strict(text, "file.json");
  } catch (const DamagedError& error) {
    return error.what();
  }
  return "accepted";
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
}

}  // namespace

TEST_CASE("well-formed JSON is read as it stands") {
  const auto json =
      parse_json_strict(R"( {"a": [1, -2, 1.5, true, null, "\u00e9\n"], "b": {"a": {}}, "": 18446744073709551615} )", "file.json");
  CHECK(json["a"].size() == 6);
  CHECK(json["a"][5] == "\u00e9\n");
  CHECK(json["b"]["a"].is_object());
  CHECK(json[""] == 18446744073709551615ull);
  CHECK(parse_json_strict("7", "file.json") == 7);
  CHECK(parse_json_strict(nested(kMaxJsonDepth), "file.json").is_array());
}

TEST_CASE("doubles read back bit-equal") {
  for (const double x : {0.1, 1e-300, 3.5, -0.0, 1.0 / 3}) {
    CHECK(parse_json_strict(nlohmann::json(x).dump(), "file.json").get<double>() == x);
  }
}

TEST_CASE("bad JSON is refused with file and byte offset") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "at byte 0: "},
      {"{\"a\": 1, \"a\": 2}", "at byte 12: duplicate key 'a'"},
      {"{\"a\": 1, \"\\u0061\": 2}", "at byte 17: duplicate key 'a'"},
      {"[1, 2", "at byte 5"},
      {"{} {}", "at byte 4"},
      {"{\"a\": 01}", "at byte"},
      {"[1,]", "at byte 4"},
      {"[NaN]", "at byte 2"},
      {"[1e999]", "number out of range"},
      {"[18446744073709551616]", "at byte 22: integer out of range '18446744073709551616'"},
      {"[-9223372036854775809]", "integer out of range"},
      {"[\"\xff\"]", "at byte 3"},
      {"[\"a\nb\"]", "at byte 4"},
      {std::string("{}\0garbage", 10), "at byte 2: NUL byte"},
      {"\xEF\xBB\xBF{}", "at byte 0: byte order mark"},
      {"{'a': 1}", "at byte 2"},
      {"// comment\n1", "at byte 1"},
      {nested(kMaxJsonDepth + 1), "nested deeper than 64"},
      {std::string(1000000, '['), "nested deeper than 64"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = refusal(text);
    INFO(message);
    CHECK(message.find("file.json: bad JSON at byte ") == 0);
    CHECK(message.find(expected) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("getters name file and key path") {
  const auto json = parse_json_strict(R"({"list": [{"n": 5}, {"n": "x"}], "big": 9223372036854775808, "real": 2.5})", "file.json");
  const JsonCursor root(json, "file.json");
  CHECK(root.at("list").items()[0].at("n").integer() == 5);
  CHECK(root.at("real").number() == 2.5);
  const auto message = [](auto&& read) {
    try {
      read();
    } catch (const DamagedError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(message([&] { root.at("list").items()[1].at("n").integer(); }) == "file.json: list[1].n: found string, expected an integer");
  CHECK(message([&] { root.at("list").items()[0].at("n").integer(0, 4); }) == "file.json: list[0].n: found 5, expected 0 to 4");
  CHECK(message([&] { root.at("list").items()[0].at("m"); }) == "file.json: list[0]: key 'm' is missing");
  CHECK(message([&] { root.at("big").integer(); }).find("file.json: big: found 9223372036854775808, expected") == 0);
  CHECK(message([&] { root.at("real").integer(); }) == "file.json: real: found number, expected an integer");
  CHECK(message([&] { root.at("real").items(); }) == "file.json: real: found number, expected an array");
  CHECK(message([&] { root.allow_only({"list", "big"}); }) == "file.json: unknown key 'real'; known: list, big");
}
