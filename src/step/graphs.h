// The micro-batches of an update as captured graphs: which of them is captured or replayed, what a graph is left open, and what this asks
// of a device. Nothing here needs a GPU: a test hands in a device of its own.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/run_config.h"
#include "ops/paths.h"
#include "step/batches.h"

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
  bool records_stream = false;      // logged updates measure the residual stream
  std::optional<LoopSpan> loop{};   // the plan's: equal calls with another loop inject and truncate elsewhere
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

  std::size_t size() const { return graphs_.size(); }

 private:
  Capture capture_;
  std::size_t most_;
  std::set<std::string> warm_;                                             // shapes
  std::list<std::pair<GraphKey, std::unique_ptr<CapturedGraph>>> graphs_;  // newest use first
};

// What a GPU does for captured graphs, and a test imitates.
struct GraphDevice {
  Capture capture;
  std::unique_ptr<SlotCopies> copies;
};

// The GPU's. Makes a stream of its own the calling thread's current one for good: neither a capture nor the warm-up before it may use the
// default stream, which gradient accumulation would remember. InputError in a build without CUDA.
GraphDevice cuda_graph_device(at::Device device);

// Why a run's updates cannot be captured, or nothing.
std::string why_no_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels = {});

// kernels.graph of a config on a device. InputError where it is `on` and cannot be; `auto` needs a GPU's proof.
bool uses_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels = {});

// What a run's micro-batches are captured with; nothing where they run plainly. InputError as above.
std::optional<GraphDevice> graph_device_of(const RunConfig& config, at::Device device, const ops::Paths& paths);

}  // namespace meristem
