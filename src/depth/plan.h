// The depth plan: the list of block calls that a token passes through, and its text form "0-3, (4-7)x4, 8-11".
//   plan = item {", " item};  a semicolon will do for a comma;  item = range | "(" plan ")x" n;  range = a | a-b, a > b counting down
// Pure C++: printed, compared, stored and tested without LibTorch.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace meristem {

// Where a plan loops: the calls [start, start + length * repeats) are `repeats` runs of the same `length` calls. What comes before is the
// prelude, what comes after the coda.
struct LoopSpan {
  std::int64_t start = 0, length = 0, repeats = 0;
  std::int64_t end() const { return start + length * repeats; }
  // Whether call i is inside the loop, and the repeat that it belongs to.
  bool holds(std::int64_t call) const { return call >= start && call < end(); }
  std::int64_t repeat_of(std::int64_t call) const { return (call - start) / length; }
  bool begins_repeat(std::int64_t call) const { return holds(call) && (call - start) % length == 0; }
  auto operator<=>(const LoopSpan&) const = default;
};

class DepthPlan {
 public:
  DepthPlan() = default;
  explicit DepthPlan(std::vector<std::int64_t> calls) : calls_(std::move(calls)) {}

  // "0-(blocks-1)": every block once, in order.
  static DepthPlan plain(std::int64_t blocks);

  // Parses the text form; blanks are free. InputError names the position (bytes, from 0) and what is wrong; refuses more than kMaxCalls
  // calls and more than 32 nested repeats, before either costs anything.
  static DepthPlan parse(std::string_view text);

  // The canonical print; parse(print()) == *this for calls that parse accepts. Up to 200 calls it is the shortest text there is, ties
  // decided by a fixed rule (plan_text.cpp); longer plans are printed piece by piece, in linear time, and need not be the shortest.
  std::string print() const;

  // calls()[i] is the block index of call i; i is the call's depth index.
  const std::vector<std::int64_t>& calls() const { return calls_; }
  std::int64_t num_calls() const { return static_cast<std::int64_t>(calls_.size()); }
  std::int64_t max_block() const;  // -1 for the empty plan
  bool is_plain() const;           // 0, 1, …, n-1
  bool calls_every_block(std::int64_t blocks) const;

  // InputError if there is no call, if a call names a block outside [0, blocks), or, with every_block, which is training's demand, if a
  // block is never called.
  void check(std::int64_t blocks, bool every_block) const;

  // The plan's loop: known where the text had exactly one group "(…)xN" (N = 1 included) and where with_repeats() made the plan. It says
  // how a plan was written, so it takes no part in comparisons: equal calls are equal plans.
  const std::optional<LoopSpan>& loop() const { return loop_; }
  // Whether there is a loop() and nothing outside or inside its group repeats in the canonical print: what `model.loop` asks of a plan.
  bool has_one_loop() const;
  // The same plan with its loop run `repeats` times. InputError where it has no loop(), for less than one, and beyond kMaxCalls.
  DepthPlan with_repeats(std::int64_t repeats) const;
  // The text with its loop as a group even where that runs once: "0-3, (4-7)x1, 8-11". Parses back to the same calls and the same loop()
  // where has_one_loop(); print() otherwise.
  std::string print_loop() const;
  // The text that people read and configs keep, of the calls alone: where they are one loop between calls of which nothing repeats, with
  // that loop as a group, "0-7, (8-11)x2, 12-23", though print() is shorter, "0-11, 8-23". print() elsewhere, and for more than 200 calls.
  std::string print_grouped() const;

  // Inference looping: the calls [start, start+length) repeated `extra` more times right after themselves. Start and length count calls,
  // not blocks. The loop() grows along where the window is one of its repeats, else it is forgotten.
  // InputError where the calls are not there or the plan would exceed kMaxCalls.
  DepthPlan repeat(std::int64_t start, std::int64_t length, std::int64_t extra) const;

  bool operator==(const DepthPlan& other) const { return calls_ == other.calls_; }

  static constexpr std::int64_t kMaxCalls = 1 << 16;

 private:
  DepthPlan(std::vector<std::int64_t> calls, LoopSpan loop) : calls_(std::move(calls)), loop_(loop) {}
  DepthPlan part(std::int64_t begin, std::int64_t end) const;
  std::optional<LoopSpan> longest_loop() const;

  std::vector<std::int64_t> calls_;
  std::optional<LoopSpan> loop_;
};

// How often a loop runs in training where that is drawn: Poisson with a log-normal rate, as in Huginn (2502.05171).
struct RepeatDistribution {
  double mean = 1;       // of the repeats before `max` bounds them; at least 1
  double sigma = 0.5;    // of the rate's logarithm
  std::int64_t max = 1;  // draws above it are `max`
};

// The repeats of update `step`: 1 + Poisson(rate), rate log-normal with mean `mean` - 1. A pure function of its arguments, so the same on
// every rank and after a resume. (Huginn adds the 1 on top of its mean; here `mean` is the mean.)
std::int64_t draw_repeats(const RepeatDistribution& distribution, std::uint64_t seed, std::int64_t step);

}  // namespace meristem
