// A device for captured graphs on the CPU: a graph keeps the body that was captured and runs that one again; copies come as late as they
// may.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "step/graphs.h"

namespace meristem::test {

struct GraphCounts {
  int captures = 0, replays = 0, alive = 0;
};

class FakeGraph : public CapturedGraph {
 public:
  FakeGraph(std::function<void()> body, GraphCounts& counts) : body_(std::move(body)), counts_(counts) {
    ++counts_.captures;
    ++counts_.alive;
  }
  ~FakeGraph() override { --counts_.alive; }
  void replay() override {
    ++counts_.replays;
    body_();
  }

 private:
  std::function<void()> body_;
  GraphCounts& counts_;
};

inline Capture fake_capture(GraphCounts& counts) {
  return [&counts](const std::function<void()>& body) { return std::make_unique<FakeGraph>(body, counts); };
}

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

inline GraphDevice fake_device(GraphCounts& counts) { return {fake_capture(counts), std::make_unique<LateCopies>()}; }

}  // namespace meristem::test
