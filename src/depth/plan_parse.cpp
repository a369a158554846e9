// The text form's grammar (depth/plan.h), by recursive descent.
#include <cstdlib>
#include <set>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"
#include "depth/plan.h"

namespace meristem {
namespace {

constexpr int kMaxNesting = 32;
constexpr std::int64_t kMaxNumber = 1'000'000;
constexpr std::size_t kMaxText = 1 << 20;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::vector<std::int64_t> calls() {
    if (text_.size() > kMaxText) fail("longer than a plan can be");
    std::vector<std::int64_t> calls = plan(0);
    if (at_ != text_.size()) fail("expected ',' or the end");
    return calls;
  }
  // After calls(): a block that two groups hold, neither inside the other.
  std::optional<std::int64_t> overlap() const { return overlap_; }
  // After calls(): the one group of the text.
  std::optional<LoopSpan> loop() const { return groups_ == 1 ? std::optional(loop_) : std::nullopt; }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail(at_, what); }
  [[noreturn]] void fail(std::size_t position, const std::string& what) const {
    throw InputError(fmt::format("depth plan \"{}\": at position {}: {}", printable(text_, 60), position, what));
  }
  [[noreturn]] void fail_too_long(std::size_t position) const { fail(position, fmt::format("more than {} calls", DepthPlan::kMaxCalls)); }

  void skip_blanks() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  // `what` is the number's meaning, for the message.
  std::int64_t number(const char* what) {
    skip_blanks();
    const std::size_t begin = at_;
    if (at_ == text_.size() || text_[at_] < '0' || text_[at_] > '9') fail(fmt::format("expected {}", what));
    std::int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = 10 * value + (text_[at_] - '0');
      if (value > kMaxNumber) fail(begin, "number too large");
    }
    return value;
  }

  std::vector<std::int64_t> plan(int nesting) {
    if (nesting > kMaxNesting) fail("nested too deeply");
    std::set<std::int64_t> in_groups;  // of this level
    const int groups_at_start = groups_;
    std::vector<std::int64_t> calls = item(nesting);
    note_group(calls, groups_at_start, in_groups);
    while (take(',')) {
      skip_blanks();
      const std::size_t begin = at_;
      const auto calls_before = static_cast<std::int64_t>(calls.size());
      const int groups_before = groups_;
      const std::vector<std::int64_t> more = item(nesting);
      note_group(more, groups_before, in_groups);
      if (groups_ > groups_before) loop_.start = calls_before;
      if (static_cast<std::int64_t>(calls.size() + more.size()) > DepthPlan::kMaxCalls) fail_too_long(begin);
      calls.insert(calls.end(), more.begin(), more.end());
    }
    skip_blanks();
    return calls;
  }

  // An item that is a group: its blocks may not be in one of this level already.
  void note_group(const std::vector<std::int64_t>& calls, int groups_before, std::set<std::int64_t>& in_groups) {
    if (groups_ == groups_before) return;
    const std::set<std::int64_t> blocks(calls.begin(), calls.end());
    for (const std::int64_t block : blocks) {
      if (!in_groups.insert(block).second && !overlap_) overlap_ = block;
    }
  }

  std::vector<std::int64_t> item(int nesting) {
    if (!take('(')) return range();
    const std::vector<std::int64_t> body = plan(nesting + 1);
    if (!take(')')) fail("expected ')'");
    if (!take('x')) fail("expected 'x' and the number of repeats");
    skip_blanks();
    const std::size_t begin = at_;
    const std::int64_t repeats = number("the number of repeats");
    if (repeats < 1) fail(begin, "a repeat count must be at least 1");
    // Neither factor is large, so the product cannot overflow; nothing is copied before it is known to fit.
    if (static_cast<std::int64_t>(body.size()) * repeats > DepthPlan::kMaxCalls) fail_too_long(begin);
    std::vector<std::int64_t> calls;
    calls.reserve(body.size() * static_cast<std::size_t>(repeats));
    for (std::int64_t r = 0; r < repeats; ++r) calls.insert(calls.end(), body.begin(), body.end());
    ++groups_;
    loop_ = {0, static_cast<std::int64_t>(body.size()), repeats};
    return calls;
  }

  std::vector<std::int64_t> range() {
    skip_blanks();
    const std::size_t begin = at_;
    const std::int64_t first = number("a block number");
    if (!take('-')) return {first};
    const std::int64_t last = number("a block number"), step = first <= last ? 1 : -1;
    if (std::abs(last - first) >= DepthPlan::kMaxCalls) fail_too_long(begin);
    std::vector<std::int64_t> calls;
    for (std::int64_t block = first; block != last + step; block += step) calls.push_back(block);
    return calls;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int groups_ = 0;
  LoopSpan loop_;  // of the last group
  std::optional<std::int64_t> overlap_;
};

}  // namespace

DepthPlan DepthPlan::parse(std::string_view text) {
  Parser parser(text);
  DepthPlan plan(parser.calls());
  plan.loop_ = parser.loop();
  plan.overlap_ = parser.overlap();
  return plan;
}

}  // namespace meristem
