// The text form's grammar (depth/plan.h), by recursive descent.
#include <fmt/format.h>

#include "core/errors.h"
#include "depth/plan.h"

namespace meristem {
namespace {

constexpr int kMaxNesting = 32;
constexpr std::int64_t kMaxNumber = 1'000'000;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::vector<std::int64_t> parse() {
    if (text_.size() > 1 << 20) fail("longer than a plan can be");
    std::vector<std::int64_t> calls = plan(0);
    if (at_ != text_.size()) fail("expected ',' or the end");
    return calls;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const std::string shown = text_.size() > 60 ? std::string(text_.substr(0, 60)) + "…" : std::string(text_);
    throw InputError(fmt::format("depth plan \"{}\": at position {}: {}", shown, at_, what));
  }

  void skip_blanks() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::int64_t number() {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] < '0' || text_[at_] > '9') fail("expected a block number");
    std::int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = 10 * value + (text_[at_] - '0');
      if (value > kMaxNumber) fail("number too large");
    }
    return value;
  }

  void append(std::vector<std::int64_t>& calls, const std::vector<std::int64_t>& more) const {
    if (static_cast<std::int64_t>(calls.size() + more.size()) > DepthPlan::kMaxCalls) fail(fmt::format("more than {} calls", DepthPlan::kMaxCalls));
    calls.insert(calls.end(), more.begin(), more.end());
  }

  std::vector<std::int64_t> plan(int nesting) {
    if (nesting > kMaxNesting) fail("nested too deeply");
    std::vector<std::int64_t> calls = item(nesting);
    while (take(',')) append(calls, item(nesting));
    skip_blanks();
    return calls;
  }

  std::vector<std::int64_t> item(int nesting) {
    if (!take('(')) return range();
    const std::vector<std::int64_t> body = plan(nesting + 1);
    if (!take(')')) fail("expected ')'");
    if (!take('x')) fail("expected 'x' and the number of repeats");
    const std::int64_t repeats = number();
    if (repeats < 1) fail("a repeat count must be at least 1");
    if (static_cast<std::int64_t>(body.size()) * repeats > DepthPlan::kMaxCalls) fail(fmt::format("more than {} calls", DepthPlan::kMaxCalls));
    std::vector<std::int64_t> calls;
    for (std::int64_t r = 0; r < repeats; ++r) append(calls, body);
    return calls;
  }

  std::vector<std::int64_t> range() {
    const std::int64_t first = number();
    if (!take('-')) return {first};
    const std::int64_t last = number(), step = first <= last ? 1 : -1;
    if (std::abs(last - first) >= DepthPlan::kMaxCalls) fail(fmt::format("more than {} calls", DepthPlan::kMaxCalls));
    std::vector<std::int64_t> calls;
    for (std::int64_t block = first; block != last + step; block += step) calls.push_back(block);
    return calls;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

DepthPlan DepthPlan::parse(std::string_view text) { return DepthPlan(Parser(text).parse()); }

}  // namespace meristem
