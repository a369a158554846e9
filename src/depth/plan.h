// The depth plan: the list of block calls that a token passes through, and its text form "0-3, (4-7)x4, 8-11".
//   plan = item {", " item};  item = range | "(" plan ")x" n;  range = a | a-b, a > b counting down
// Pure C++: printed, compared, stored and tested without LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace meristem {

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
  // decided by a fixed rule (plan_print.cpp); longer plans are printed piece by piece, in linear time, and need not be the shortest.
  std::string print() const;

  // calls()[i] is the block index of call i; i is the call's depth index.
  const std::vector<std::int64_t>& calls() const { return calls_; }
  std::int64_t num_calls() const { return static_cast<std::int64_t>(calls_.size()); }
  std::int64_t max_block() const;  // -1 for the empty plan
  bool is_plain() const;           // 0, 1, …, n-1
  bool calls_every_block(std::int64_t blocks) const;

  // InputError if there is no call, if a call names a block outside [0, blocks), or, with every_block, if a block is never called.
  void check(std::int64_t blocks, bool every_block) const;

  // Inference looping: the calls [start, start+length) repeated `extra` more times right after themselves. Start and length count calls,
  // not blocks. InputError where the calls are not there or the plan would exceed kMaxCalls.
  DepthPlan repeat(std::int64_t start, std::int64_t length, std::int64_t extra) const;

  bool operator==(const DepthPlan&) const = default;

  static constexpr std::int64_t kMaxCalls = 1 << 16;

 private:
  std::vector<std::int64_t> calls_;
};

}  // namespace meristem
