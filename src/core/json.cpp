#include "core/json.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

using Json = nlohmann::json;

// Counts what the lexer has consumed: the SAX events carry no position.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** consumed;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    *consumed = ++at;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

class StrictBuilder {
 public:
  StrictBuilder(std::string_view text, const std::string& origin) : begin_(text.data()), consumed_(text.data()), origin_(origin) {}

  const char** consumed() { return &consumed_; }
  Json take() { return std::move(root_); }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(std::int64_t value) { return put(value); }
  bool number_unsigned(std::uint64_t value) { return put(value); }
  bool number_float(double value, const std::string& literal) {
    // The lexer falls back to a double where an integer does not fit; that would round silently.
    if (literal.find_first_of(".eE") == std::string::npos) fail("integer out of range " + in_quotes(literal));
    return put(value);
  }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t& /*value*/) { return false; }
  bool start_object(std::size_t /*size*/) { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (stack_.back()->contains(name)) fail("duplicate key " + in_quotes(name));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const Json::exception& error) {
    const std::string what = error.what();
    if (error.id == 406) fail("number out of range");
    const std::size_t from = what.find("syntax error");
    const std::string reason = from == std::string::npos ? "syntax error" : what.substr(from, what.find("; last read", from) - from);
    fail(printable(reason, 160));
  }

 private:
  const char* begin_;
  const char* consumed_;
  const std::string& origin_;
  Json root_;
  std::vector<Json*> stack_;
  std::string key_;

  [[noreturn]] void fail(const std::string& what) const {
    throw DamagedError(fmt::format("{}: bad JSON at byte {}: {}", origin_, consumed_ - begin_, what));
  }

  Json* place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent[key_];
    slot = std::move(value);
    return &slot;
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (stack_.size() >= static_cast<std::size_t>(kMaxJsonDepth)) fail(fmt::format("nested deeper than {}", kMaxJsonDepth));
    stack_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }
};

}  // namespace

nlohmann::json parse_json_strict(std::string_view text, const std::string& origin) {
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) throw DamagedError(fmt::format("{}: bad JSON at byte {}: NUL byte", origin, nul));
  if (text.starts_with("\xEF\xBB\xBF")) throw DamagedError(fmt::format("{}: bad JSON at byte 0: byte order mark", origin));
  StrictBuilder builder(text, origin);
  const CountingIterator first{text.data(), builder.consumed()};
  const CountingIterator last{text.data() + text.size(), builder.consumed()};
  Json::sax_parse(first, last, &builder);
  return builder.take();
}

bool JsonCursor::has(const std::string& key) const { return value_->is_object() && value_->contains(key); }

JsonCursor JsonCursor::at(const std::string& key) const {
  expect(value_->is_object(), "an object");
  const auto found = value_->find(key);
  if (found == value_->end()) fail("key " + in_quotes(key) + " is missing");
  JsonCursor member(*found, origin_);
  member.path_ = path_.empty() ? printable(key, 80) : path_ + "." + printable(key, 80);
  return member;
}

std::vector<JsonCursor> JsonCursor::items() const {
  expect(value_->is_array(), "an array");
  std::vector<JsonCursor> out;
  out.reserve(value_->size());
  for (const Json& value : *value_) {
    out.emplace_back(value, origin_);
    out.back().path_ = fmt::format("{}[{}]", path_, out.size() - 1);
  }
  return out;
}

std::vector<std::pair<std::string, JsonCursor>> JsonCursor::members() const {
  expect(value_->is_object(), "an object");
  std::vector<std::pair<std::string, JsonCursor>> out;
  out.reserve(value_->size());
  for (const auto& item : value_->items()) out.emplace_back(item.key(), at(item.key()));
  return out;
}

void JsonCursor::allow_only(std::initializer_list<std::string_view> keys) const {
  expect(value_->is_object(), "an object");
  for (const auto& item : value_->items()) {
    if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
      fail(fmt::format("unknown key {}; known: {}", in_quotes(item.key()), fmt::join(keys, ", ")));
    }
  }
}

std::string JsonCursor::text() const {
  expect(value_->is_string(), "a string");
  return value_->get<std::string>();
}

std::string JsonCursor::hash() const {
  const std::string found = text();
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (found.size() != 16 || !std::all_of(found.begin(), found.end(), hex)) fail("expected 16 hex digits");
  return found;
}

bool JsonCursor::boolean() const {
  expect(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

double JsonCursor::number() const {
  expect(value_->is_number(), "a number");
  return value_->get<double>();
}

std::int64_t JsonCursor::integer(std::int64_t min, std::int64_t max) const {
  expect(value_->is_number_integer(), "an integer");
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool fits = !value_->is_number_unsigned() || value_->get<std::uint64_t>() <= kMax;
  const std::int64_t found = fits ? value_->get<std::int64_t>() : 0;
  if (!fits || found < min || found > max) fail(fmt::format("found {}, expected {} to {}", value_->dump(), min, max));
  return found;
}

std::vector<std::int64_t> JsonCursor::integers(std::int64_t min) const {
  std::vector<std::int64_t> out;
  for (const JsonCursor& item : items()) out.push_back(item.integer(min));
  return out;
}

std::vector<double> JsonCursor::numbers() const {
  std::vector<double> out;
  for (const JsonCursor& item : items()) out.push_back(item.number());
  return out;
}

void JsonCursor::fail(const std::string& what) const {
  throw DamagedError(path_.empty() ? fmt::format("{}: {}", origin_, what) : fmt::format("{}: {}: {}", origin_, path_, what));
}

void JsonCursor::expect(bool holds, std::string_view expected) const {
  if (!holds) fail(fmt::format("found {}, expected {}", value_->type_name(), expected));
}

}  // namespace meristem
