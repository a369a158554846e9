// Which of a step's parts run as a captured graph: decided here, with what a graph is left open, so that a test can say it without a GPU.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace meristem {

// A recorded sequence of launches on a device.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
  // Asynchronous on the current stream.
  virtual void replay() = 0;
};

// Records what `body` launches, without running it.
using Capture = std::function<std::unique_ptr<CapturedGraph>(const std::function<void()>& body)>;

// What a graph is good for. Everything in a graph but the contents of its buffers is fixed when it is captured.
struct GraphKey {
  std::vector<std::int64_t> calls;  // the depth plan's: a sampled number of repeats is another plan
  std::string shape;                // of the input buffers
  bool records_stream = false;      // logged steps measure the residual stream
  auto operator<=>(const GraphKey&) const = default;
};

class GraphCache {
 public:
  // Graphs share one pool of memory but hold launch parameters of their own; the longest unused one goes beyond `most`.
  explicit GraphCache(Capture capture, std::size_t most = 16) : capture_(std::move(capture)), most_(most) {}

  enum class Action { kWarmUp, kCapture, kReplay };

  // Does what `body` does, once. The first time a shape is seen the body runs plainly: libraries set themselves up where no capture forbids
  // it. The first time a key is seen after that it is captured and replayed, from then on replayed.
  Action run(const GraphKey& key, const std::function<void()>& body);

  // A growth makes buffers of its own: every graph points into memory that is gone.
  void clear();
  std::size_t size() const { return graphs_.size(); }

 private:
  Capture capture_;
  std::size_t most_;
  std::set<std::string> warm_;                                             // shapes
  std::list<std::pair<GraphKey, std::unique_ptr<CapturedGraph>>> graphs_;  // newest use first
};

}  // namespace meristem
