// JSON that may come from anywhere: parsed strictly, read by typed getters whose errors name file and key path.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace meristem {

inline constexpr int kMaxJsonDepth = 64;

// Parses one JSON value. Refused with a DamagedError that names `origin` (a path) and the byte offset: bad syntax, trailing
// text, bad UTF-8, a key that occurs twice in an object, nesting deeper than kMaxJsonDepth, numbers that no 64-bit integer or
// double holds. (nlohmann alone keeps the last of two equal keys, rounds large integers, and stops at a NUL byte.)
nlohmann::json parse_json_strict(std::string_view text, const std::string& origin);

// A place in a parsed document. Points into the document: it must outlive the cursor.
// Every getter throws DamagedError "ORIGIN: key.path: found …, expected …".
class JsonCursor {
 public:
  JsonCursor(const nlohmann::json& value, std::string origin) : value_(&value), origin_(std::move(origin)) {}

  bool has(const std::string& key) const;
  JsonCursor at(const std::string& key) const;                          // the member; it must exist
  std::vector<JsonCursor> items() const;                                // of an array
  std::vector<std::pair<std::string, JsonCursor>> members() const;      // of an object, sorted by key
  void allow_only(std::initializer_list<std::string_view> keys) const;  // any other key is refused

  std::string text() const;
  std::string hash() const;  // as xxh3_hex writes it: 16 lower-case hex digits
  bool boolean() const;
  double number() const;
  std::int64_t integer(std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  std::vector<std::int64_t> integers(std::int64_t min = std::numeric_limits<std::int64_t>::min()) const;
  std::vector<double> numbers() const;

  [[noreturn]] void fail(const std::string& what) const;  // DamagedError that names this place

 private:
  const nlohmann::json* value_;
  std::string origin_;
  std::string path_;

  void expect(bool holds, std::string_view expected) const;
};

}  // namespace meristem
