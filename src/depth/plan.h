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

  // Parses the text form. InputError names the position and what is wrong; refuses plans of more than kMaxCalls calls.
  static DepthPlan parse(std::string_view text);

  // The canonical print, the shortest; parse(print()) == *this.
  std::string print() const;

  // calls()[i] is the block index of call i; i is the call's depth index.
  const std::vector<std::int64_t>& calls() const { return calls_; }
  std::int64_t num_calls() const { return static_cast<std::int64_t>(calls_.size()); }
  std::int64_t max_block() const;                    // -1 for the empty plan
  bool is_plain() const;                             // 0, 1, …, n-1
  bool calls_every_block(std::int64_t blocks) const;

  // InputError if a call names a block outside [0, blocks), or, with every_block, if a block is never called.
  void check(std::int64_t blocks, bool every_block) const;

  // Inference looping: the calls [start, start+length) repeated `extra` more times right after themselves. s and b count calls.
  DepthPlan repeat(std::int64_t start, std::int64_t length, std::int64_t extra) const;

  bool operator==(const DepthPlan&) const = default;

  static constexpr std::int64_t kMaxCalls = 1 << 16;

 private:
  std::vector<std::int64_t> calls_;
};

}  // namespace meristem
