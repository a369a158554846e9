// The input pipeline's copies on the CPU.
#pragma once

#include <vector>

#include <torch/torch.h>

#include "train/input_pipeline.h"

namespace meristem::test {

// As late as the contract allows: a copy under way is done when the host wants its buffer back, or the computation its content.
class LateCopies : public SlotCopies {
 public:
  std::int32_t* host(int slot, std::int64_t words) override {
    land(slot);
    Slot& s = slots_[slot];
    s.host.assign(static_cast<std::size_t>(words), -7);
    return s.host.data();
  }
  void send(int slot, std::int64_t words) override {
    slots_[slot].under_way = words;
    slots_[slot].twin.assign(static_cast<std::size_t>(words), -9);
  }
  void take(int slot, const at::Tensor& target) override {
    land(slot);
    Slot& s = slots_[slot];
    at::Tensor(target).copy_(torch::from_blob(s.twin.data(), {target.numel()}, torch::kInt));
    s.twin.assign(s.twin.size(), -9);
  }

 private:
  struct Slot {
    std::vector<std::int32_t> host, twin;
    std::int64_t under_way = 0;
  };
  void land(int slot) {
    Slot& s = slots_[slot];
    if (s.under_way > 0) s.twin.assign(s.host.begin(), s.host.begin() + s.under_way);
    s.under_way = 0;
  }
  Slot slots_[2];
};

}  // namespace meristem::test
