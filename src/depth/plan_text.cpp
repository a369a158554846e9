// The text form of a depth plan (depth/plan.h): its grammar, by recursive descent, and the canonical print.
#include <algorithm>
#include <cstdlib>
#include <limits>

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
    std::vector<std::int64_t> calls = item(nesting);
    while (take(',') || take(';')) {
      skip_blanks();
      const std::size_t begin = at_;
      const auto calls_before = static_cast<std::int64_t>(calls.size());
      const int groups_before = groups_;
      const std::vector<std::int64_t> more = item(nesting);
      if (groups_ > groups_before) loop_.start = calls_before;
      if (static_cast<std::int64_t>(calls.size() + more.size()) > DepthPlan::kMaxCalls) fail_too_long(begin);
      calls.insert(calls.end(), more.begin(), more.end());
    }
    skip_blanks();
    return calls;
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
};

// The shortest text, by dynamic programming over substrings. Ties go to the text with more calls inside repeats, then to the form that is
// found first (a range, then repeats from the shortest period, then a split from the left).
using Calls = std::vector<std::int64_t>;

std::size_t digits(std::int64_t value) { return std::to_string(value).size(); }

// Plans longer than this print piecewise: the table below is quadratic in memory and cubic in time.
constexpr std::size_t kExact = 200;

class Printer {
 public:
  explicit Printer(const Calls& calls) : calls_(calls), n_(calls.size()), cells_(n_ * (n_ + 1) / 2) {
    for (std::size_t length = 1; length <= n_; ++length) {
      for (std::size_t begin = 0; begin + length <= n_; ++begin) fill(begin, length);
    }
  }
  std::string text() const { return text(0, n_); }

 private:
  enum class Form : std::uint8_t { kRange, kRepeat, kSplit };
  struct Cell {
    std::uint32_t cost = 0;    // characters
    std::uint32_t looped = 0;  // calls inside repeats
    Form form = Form::kRange;
    std::uint16_t size = 0;  // kRepeat: the period; kSplit: the first part's length
  };

  // Cells of one length lie together.
  std::size_t index(std::size_t begin, std::size_t length) const { return (length - 1) * n_ - (length - 1) * (length - 2) / 2 + begin; }
  const Cell& cell(std::size_t begin, std::size_t length) const { return cells_[index(begin, length)]; }

  bool is_range(std::size_t begin, std::size_t length) const {
    if (length == 1) return true;
    const std::int64_t step = calls_[begin + 1] - calls_[begin];
    if (step != 1 && step != -1) return false;
    return length == 2 || (cell(begin, length - 1).form == Form::kRange && calls_[begin + length - 1] - calls_[begin + length - 2] == step);
  }
  bool has_period(std::size_t begin, std::size_t length, std::size_t period) const {
    const auto first = calls_.begin() + static_cast<std::ptrdiff_t>(begin);
    return std::equal(first + static_cast<std::ptrdiff_t>(period), first + static_cast<std::ptrdiff_t>(length), first);
  }

  void fill(std::size_t begin, std::size_t length) {
    Cell best{std::numeric_limits<std::uint32_t>::max(), 0, Form::kSplit, 1};
    const auto offer = [&](std::size_t cost, std::size_t looped, Form form, std::size_t size) {
      if (cost > best.cost || (cost == best.cost && looped <= best.looped)) return;
      best = {static_cast<std::uint32_t>(cost), static_cast<std::uint32_t>(looped), form, static_cast<std::uint16_t>(size)};
    };
    if (is_range(begin, length)) {
      offer(length == 1 ? digits(calls_[begin]) : digits(calls_[begin]) + 1 + digits(calls_[begin + length - 1]), 0, Form::kRange, 0);
    }
    for (std::size_t period = 1; 2 * period <= length; ++period) {
      if (length % period != 0 || !has_period(begin, length, period)) continue;
      offer(cell(begin, period).cost + 3 + digits(static_cast<std::int64_t>(length / period)), length, Form::kRepeat, period);
    }
    for (std::size_t first = 1; first < length; ++first) {
      const Cell &head = cell(begin, first), &tail = cell(begin + first, length - first);
      offer(head.cost + 2 + tail.cost, head.looped + tail.looped, Form::kSplit, first);
    }
    cells_[index(begin, length)] = best;
  }

  std::string text(std::size_t begin, std::size_t length) const {
    const Cell& c = cell(begin, length);
    switch (c.form) {
      case Form::kRange:
        return length == 1 ? std::to_string(calls_[begin]) : fmt::format("{}-{}", calls_[begin], calls_[begin + length - 1]);
      case Form::kRepeat: return fmt::format("({})x{}", text(begin, c.size), length / c.size);
      case Form::kSplit: return text(begin, c.size) + ", " + text(begin + c.size, length - c.size);
    }
    return {};
  }

  const Calls& calls_;
  std::size_t n_;
  std::vector<Cell> cells_;
};

// A stretch of calls that repeats; `length` is a multiple of `period`, 0 where nothing repeats.
struct Repeat {
  std::size_t period = 0, length = 0;
};

// The longest repeat from `begin`, of a period from `min_period` on; the shortest period where several reach as far.
Repeat longest_repeat(const Calls& calls, std::size_t begin, std::size_t min_period) {
  Repeat best;
  for (std::size_t period = min_period; period <= kExact && begin + 2 * period <= calls.size(); ++period) {
    std::size_t length = period;
    while (begin + length < calls.size() && calls[begin + length] == calls[begin + length - period]) ++length;
    length -= length % period;
    if (length >= 2 * period && length > best.length) best = {period, length};
  }
  return best;
}

std::size_t range_length(const Calls& calls, std::size_t begin) {
  if (begin + 1 == calls.size()) return 1;
  const std::int64_t step = calls[begin + 1] - calls[begin];
  if (step != 1 && step != -1) return 1;
  std::size_t length = 2;
  while (begin + length < calls.size() && calls[begin + length] - calls[begin + length - 1] == step) ++length;
  return length;
}

// The text of the next piece of a long plan: what reaches farther of a range and a repeat. Moves `begin` behind it.
std::string take_piece(const Calls& calls, std::size_t& begin) {
  const std::size_t first = begin, range = range_length(calls, first);
  const Repeat repeat = longest_repeat(calls, first, 1);
  if (repeat.length > range) {
    begin += repeat.length;
    const Calls body(calls.begin() + static_cast<std::ptrdiff_t>(first),
                     calls.begin() + static_cast<std::ptrdiff_t>(first + repeat.period));
    return fmt::format("({})x{}", Printer(body).text(), repeat.length / repeat.period);
  }
  // "0-3, (4-7)x100", not "0-7, (4-7)x99": a range ends where a long repeat begins. No call comes twice in a range, hence the period.
  std::size_t length = 1;
  while (length < range) {
    const Repeat inner = longest_repeat(calls, first + length, range - length);
    if (inner.length >= 3 * inner.period && inner.length > range) break;
    ++length;
  }
  begin += length;
  return length == 1 ? std::to_string(calls[first]) : fmt::format("{}-{}", calls[first], calls[first + length - 1]);
}

}  // namespace

DepthPlan DepthPlan::parse(std::string_view text) {
  Parser parser(text);
  DepthPlan plan(parser.calls());
  plan.loop_ = parser.loop();
  return plan;
}

std::string DepthPlan::print() const {
  if (calls_.empty()) return "";
  if (calls_.size() <= kExact) return Printer(calls_).text();
  std::string text;
  for (std::size_t begin = 0; begin < calls_.size();) {
    if (!text.empty()) text += ", ";
    text += take_piece(calls_, begin);
  }
  return text;
}

}  // namespace meristem
