#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/torch.h>

#include "step/graphs.h"

namespace meristem {
namespace {

class CudaGraph : public CapturedGraph {
 public:
  CudaGraph(c10::MempoolId_t pool, const std::function<void()>& body) {
    // What plain steps left in the allocator's cache is of no use to the graph's own pool.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // Thread-local: other threads, the loader's and the checkpoint writer's, go on as they like; backward's own thread launches into the
    // capturing stream all the same.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      body();
    } catch (...) {
      end_broken_capture();
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  // The body's error is the one to report.
  void end_broken_capture() {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
    }
  }

  at::cuda::CUDAGraph graph_;
};

class CudaCopies : public SlotCopies {
 public:
  explicit CudaCopies(at::Device device)
      : device_(device), stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  std::int32_t* host(int slot, std::int64_t words) override {
    Slot& s = slots_[slot];
    s.sent.synchronize();  // at once where nothing was sent yet; this holds the host at most two micro-batches ahead of the device
    if (!s.pinned.defined() || s.pinned.numel() < words) {
      s.taken.synchronize();
      s.pinned = torch::empty({words}, torch::dtype(torch::kInt).pinned_memory(true));
      s.staging = torch::empty({words}, torch::dtype(torch::kInt).device(device_));
      s.taken.record();  // its memory may have been another tensor's on the current stream
    }
    return s.pinned.data_ptr<std::int32_t>();
  }
  void send(int slot, std::int64_t words) override {
    Slot& s = slots_[slot];
    const c10::cuda::CUDAStreamGuard beside(stream_);
    s.taken.block(stream_);
    s.staging.narrow(0, 0, words).copy_(s.pinned.narrow(0, 0, words), /*non_blocking=*/true);
    s.sent.record(stream_);
  }
  void take(int slot, const at::Tensor& target) override {
    Slot& s = slots_[slot];
    const auto current = c10::cuda::getCurrentCUDAStream();
    s.sent.block(current);
    at::Tensor(target).copy_(s.staging.narrow(0, 0, target.numel()), /*non_blocking=*/true);
    s.taken.record(current);
  }

 private:
  struct Slot {
    at::Tensor pinned, staging;
    c10::cuda::CUDAEvent sent, taken;
  };
  at::Device device_;
  c10::cuda::CUDAStream stream_;
  Slot slots_[2];
};

}  // namespace

GraphDevice cuda_graph_device(at::Device device) {
  c10::cuda::getCurrentCUDAStream().synchronize();  // what earlier work made is there
  c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
  // One pool for all graphs of a model: they never run at the same time, and what outlives a replay lies outside of it.
  const c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  const Capture capture = [pool](const std::function<void()>& body) { return std::make_unique<CudaGraph>(pool, body); };
  return {capture, std::make_unique<CudaCopies>(device)};
}

}  // namespace meristem
