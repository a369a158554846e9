// How many token choices each expert received: what the balance biases move by, and what a run logs.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <ATen/Functions.h>

namespace meristem::nn {

// Of an update, for whoever logs it: by place in the depth plan.
struct ExpertLoads {
  struct Call {
    std::int64_t block = 0;
    at::Tensor counts_E;  // int64
  };
  std::map<std::int64_t, Call> by_depth;

  void add(std::int64_t depth_index, std::int64_t block, const at::Tensor& counts_E) {
    Call& call = by_depth[depth_index];
    call.block = block;
    call.counts_E = call.counts_E.defined() ? call.counts_E + counts_E : counts_E;
  }
  void add(const ExpertLoads& other) {
    for (const auto& [depth_index, call] : other.by_depth) add(depth_index, call.block, call.counts_E);
  }
};

// Where the calls of an update count, on the device: int64, a row of `experts` a call, added to in place. A row stays where it is for good,
// because captured graphs add to it too, those of other plans included.
class ExpertCounts {
 public:
  // All rows are zero; there are at least `calls`.
  void begin(std::int64_t calls, std::int64_t experts, at::Device device) {
    calls_ = calls;
    for (const at::Tensor& rows : parts_) rows.zero_();
    while (static_cast<std::int64_t>(parts_.size()) * kRows < calls) {
      parts_.push_back(at::zeros({kRows, experts}, at::TensorOptions(device).dtype(at::kLong)));
    }
  }
  std::int64_t calls() const { return calls_; }
  // [experts]; undefined for a call that the update does not have.
  at::Tensor row(std::int64_t call) const {
    return call < calls_ ? parts_[static_cast<std::size_t>(call / kRows)].select(0, call % kRows) : at::Tensor();
  }
  // [calls, experts], a copy; undefined where nothing counts.
  at::Tensor all() const { return parts_.empty() ? at::Tensor() : at::cat(parts_).narrow(0, 0, calls_); }

 private:
  static constexpr std::int64_t kRows = 64;
  std::vector<at::Tensor> parts_;
  std::int64_t calls_ = 0;
};

}  // namespace meristem::nn
