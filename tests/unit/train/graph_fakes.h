// A graph on the CPU: it keeps the body that was captured and runs that one again.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "train/graph_cache.h"

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

}  // namespace meristem::test
