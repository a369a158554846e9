// Captured graphs: what is captured, replayed and captured anew; the pinned double buffer before them; kernels.graph.
#include "step/graphs.h"

#include <deque>
#include <functional>

#include "support/catch.h"
#include "unit/step/fakes.h"
#include "unit/step/small_run.h"

using namespace meristem;
using Action = GraphCache::Action;

namespace {

bool holds(const at::Tensor& words, const std::vector<std::int32_t>& wanted) {
  const at::Tensor host = words.cpu().contiguous();
  return std::equal(wanted.begin(), wanted.end(), host.data_ptr<std::int32_t>(), host.data_ptr<std::int32_t>() + host.numel());
}

void check_batch(const StaticInputs& buffers, const HostBatch& batch) {
  CHECK(holds(buffers.inputs.batch.tokens_N, batch.inputs));
  CHECK(holds(buffers.inputs.batch.targets_N, batch.targets));
  CHECK(holds(buffers.inputs.batch.positions_N, batch.positions));
  CHECK(holds(buffers.inputs.source_S, batch.source));
}

HostBatch with_documents(std::int64_t from, std::vector<std::int32_t> boundaries) {
  HostBatch batch = test::rows(from, 4);
  batch.boundaries = std::move(boundaries);
  return batch;
}

void run_first(std::deque<std::function<void()>>& queue) {
  const auto work = queue.front();
  queue.pop_front();
  work();
}

// A device that does nothing until somebody has to wait for it.
class SlowCopies : public SlotCopies {
 public:
  explicit SlowCopies(std::deque<std::function<void()>>& compute) : compute_(compute) {}
  std::int32_t* host(int slot, std::int64_t words) override {
    finish_copy(slot);
    slots_[slot].host.assign(static_cast<std::size_t>(words), -7);
    return slots_[slot].host.data();
  }
  void send(int slot, std::int64_t) override { slots_[slot].under_way = true; }
  void take(int slot, const at::Tensor& target) override {
    compute_.push_back([this, slot, target] {
      if (slots_[slot].taken) finish_copy(slot);  // else the twin holds what was sent first, which is this call's
      at::Tensor(target).copy_(torch::from_blob(slots_[slot].twin.data(), {target.numel()}, torch::kInt));
      slots_[slot].taken = true;
    });
  }

 private:
  struct Slot {
    std::vector<std::int32_t> host, twin;
    bool under_way = false, taken = true;
  };
  // With what the host's buffer holds by now; first whoever takes the twin's last content.
  void finish_copy(int slot) {
    Slot& s = slots_[slot];
    if (!s.under_way) return;
    while (!s.taken) run_first(compute_);
    s.twin = s.host;
    s.under_way = s.taken = false;
  }
  std::deque<std::function<void()>>& compute_;
  Slot slots_[2];
};

}  // namespace

TEST_CASE("a shape runs plainly once, then each key is captured once and replayed") {
  test::GraphCounts counts;
  GraphCache graphs(test::fake_capture(counts));
  int ran = 0;
  const auto step = [&](const GraphKey& key) { return graphs.run(key, [&] { ++ran; }); };
  const GraphKey plain{{0, 1, 2, 3}, "8x1024", false}, looped{{0, 1, 2, 3, 2, 3}, "8x1024", false}, logged{{0, 1, 2, 3}, "8x1024", true};
  CHECK(step(plain) == Action::kWarmUp);
  CHECK(counts.captures == 0);
  CHECK(step(plain) == Action::kCapture);
  CHECK(step(plain) == Action::kReplay);
  CHECK(step(looped) == Action::kCapture);  // another plan, as a sampled number of repeats makes one; its shape is warm
  CHECK(step(logged) == Action::kCapture);
  CHECK(step(plain) == Action::kReplay);
  CHECK(step({{0, 1, 2, 3}, "8x1024", false, LoopSpan{1, 2, 1}}) ==
        Action::kCapture);  // the same calls, but another loop injects elsewhere
  CHECK(step({{0, 1, 2, 3}, "4x1024", false}) == Action::kWarmUp);
  CHECK(step({{0, 1, 2, 3}, "4x1024", false}) == Action::kCapture);
  CHECK((counts.captures == 5 && counts.alive == 5 && counts.replays == 7));
  CHECK(ran == 9);  // each step once, a captured one by the replay that follows
}

TEST_CASE("the graph that was not used for longest makes room") {
  test::GraphCounts counts;
  GraphCache graphs(test::fake_capture(counts), 2);
  const auto step = [&](std::int64_t block) { return graphs.run({{block}, "8x1024", false}, [] {}); };
  step(0);
  step(0);
  CHECK(step(1) == Action::kCapture);
  CHECK(step(0) == Action::kReplay);
  CHECK(step(2) == Action::kCapture);  // 1 goes
  CHECK(counts.alive == 2);
  CHECK(step(0) == Action::kReplay);
  CHECK(step(1) == Action::kCapture);
}

TEST_CASE("a capture that fails leaves the graphs as they were") {
  test::GraphCounts counts;
  bool broken = false;
  const Capture capture = [&](const std::function<void()>& body) {
    if (broken) throw std::runtime_error("no capture");
    return test::fake_capture(counts)(body);
  };
  GraphCache graphs(capture);
  for (int i = 0; i < 2; ++i) graphs.run({{0}, "s", false}, [] {});
  broken = true;
  CHECK_THROWS_WITH(graphs.run({{1}, "s", false}, [] {}), "no capture");
  CHECK(graphs.size() == 1);
  CHECK(graphs.run({{0}, "s", false}, [] {}) == Action::kReplay);
}

TEST_CASE("a batch goes to the device in one copy, of memory of its own") {
  HostBatch host = test::rows(3, 2);
  const HostBatch before = host;
  const DeviceBatch there = to_device(host, at::kCPU);
  host.inputs.assign(host.inputs.size(), -7);
  const auto holds = [](const at::Tensor& values, const std::vector<std::int32_t>& expected) {
    return torch::equal(values, torch::tensor(std::vector<std::int64_t>(expected.begin(), expected.end()), torch::kInt));
  };
  const Batch& batch = there.batch;
  CHECK(holds(batch.tokens_N, before.inputs));
  CHECK(holds(batch.targets_N, before.targets));
  CHECK(holds(batch.positions_N, before.positions));
  CHECK(holds(batch.documents.offsets, before.boundaries));
  CHECK(holds(there.source_S, before.source));
  CHECK(batch.documents.lengths == std::vector<std::int64_t>{16, 16});
  for (const at::Tensor& part : {batch.targets_N, batch.positions_N, batch.documents.offsets, there.source_S}) {
    CHECK(part.is_alias_of(batch.tokens_N));
  }
}

TEST_CASE("every batch arrives whole and in order, in buffers that stay where they are") {
  InputPipeline pipeline(std::make_unique<test::LateCopies>(), at::kCPU);
  const void* place = nullptr;
  for (std::int64_t k = 0; k < 7; ++k) {
    const HostBatch batch = test::rows(4 * k, 4);
    const StaticInputs& buffers = pipeline.load(batch);
    check_batch(buffers, batch);
    CHECK(buffers.shape == "4x16");
    CHECK(buffers.inputs.batch.documents.lengths == std::vector<std::int64_t>(4, 16));
    CHECK(holds(buffers.inputs.batch.documents.offsets, batch.boundaries));
    if (k > 0) CHECK(buffers.words.data_ptr() == place);
    place = buffers.words.data_ptr();
  }
}

TEST_CASE("the device may be far behind: nothing is packed over before it was copied, nor copied over before it was taken") {
  std::deque<std::function<void()>> compute;  // what the device has still to do, in order
  InputPipeline pipeline(std::make_unique<SlowCopies>(compute), at::kCPU);
  std::vector<at::Tensor> seen;
  for (std::int64_t k = 0; k < 9; ++k) {
    const StaticInputs& buffers = pipeline.load(test::rows(4 * k, 4));
    compute.push_back([&seen, &buffers] { seen.push_back(buffers.inputs.batch.tokens_N.clone()); });
  }
  CHECK(compute.size() > 4);  // behind indeed
  while (!compute.empty()) run_first(compute);
  REQUIRE(seen.size() == 9);
  for (std::int64_t k = 0; k < 9; ++k) CHECK(holds(seen[static_cast<std::size_t>(k)], test::rows(4 * k, 4).inputs));
}

TEST_CASE("documents share buffers up to a power of two; the rest are empty at the end") {
  InputPipeline pipeline(std::make_unique<test::LateCopies>(), at::kCPU);
  const HostBatch three = with_documents(0, {0, 5, 30, 64}), seven = with_documents(4, {0, 1, 2, 3, 4, 5, 40, 64});
  const StaticInputs& first = pipeline.load(three);
  CHECK(first.shape == "4x16, 8 documents");
  CHECK(holds(first.inputs.batch.documents.offsets, {0, 5, 30, 64, 64, 64, 64, 64, 64}));
  CHECK(first.inputs.batch.documents.lengths.empty());
  CHECK((first.inputs.batch.documents.longest == 16 && !first.inputs.batch.documents.whole_rows));
  const StaticInputs& second = pipeline.load(seven);
  CHECK(&second == &first);
  CHECK(holds(second.inputs.batch.documents.offsets, {0, 1, 2, 3, 4, 5, 40, 64, 64}));
  check_batch(second, seven);
  std::vector<std::int32_t> many{0};
  while (many.back() < 64) many.push_back(many.back() + 4);
  many.back() = 64;
  CHECK(pipeline.load(with_documents(8, many)).shape == "4x16, 16 documents");
  CHECK(pipeline.load(test::rows(0, 4)).shape == "4x16");
  CHECK(pipeline.load(test::rows(0, 4)).inputs.batch.documents.whole_rows);
  CHECK(to_device(test::rows(0, 4), at::kCPU).batch.documents.whole_rows);
  CHECK_FALSE(to_device(three, at::kCPU).batch.documents.whole_rows);
}

TEST_CASE("kernels.graph: off, on and auto") {
  const auto linked = [](std::string_view) { return true; };
  const auto yes = [](const ops::KernelUse&) { return true; };
  const auto no = [](const ops::KernelUse&) { return false; };
  int (*capability)() = [] { return 90; };
  const at::Device gpu(at::kCUDA, 0);
  ops::Paths paths;
  paths.adamw = ops::Path::kLibrary;
  RunConfig config = test::small_run("bf16");
  config.data.document_mask = false;
  const auto graph = [&](const std::string& asked, at::Device device, bool proven) {
    config.kernels.graph = asked;
    return uses_graph(config, device, paths, proven ? ops::CudaKernels{linked, yes, capability} : ops::CudaKernels{linked, no, capability});
  };
  CHECK_FALSE(graph("off", gpu, true));
  CHECK(graph("on", gpu, false));
  CHECK(graph("auto", gpu, true));
  CHECK_FALSE(graph("auto", gpu, false));
  CHECK_FALSE(graph("auto", at::kCPU, true));
  CHECK_THROWS_WITH(graph("on", at::kCPU, true), "kernels.graph: on cannot run: this run computes on the CPU; allowed: off, auto");
  config.optimizer.skip_spikes = true;
  CHECK_FALSE(graph("auto", gpu, true));
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("optimizer.skip_spikes"));
  config.optimizer.skip_spikes = false;
  config.data.document_mask = true;
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("data.document_mask needs kernels.attention: fused"));  // the reference
  paths.attention = ops::Path::kFused;
  CHECK(graph("on", gpu, true));
  paths.attention_in_windows = ops::Path::kReference;
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("data.document_mask needs kernels.attention: fused"));
  paths.attention_in_windows = std::nullopt;
  // LibTorch's flash attention reads the documents on the device, where it takes the heads.
  paths.attention = ops::Path::kLibrary;
  config.model.attention.head_dim = 64;
  CHECK(graph("on", gpu, true));
  config.model.attention.head_dim = 60;
  CHECK_FALSE(graph("auto", gpu, true));
  config.model.attention.head_dim = 64;
  config.precision.compute = Precision::kFp32;
  CHECK_FALSE(graph("auto", gpu, true));
  config.precision.compute = Precision::kBf16;
  config.model.feed_forward.kind = FeedForwardKind::kExperts;
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("experts need kernels.experts: fused"));
  paths.experts = ops::Path::kFused;
  CHECK(graph("on", gpu, true));
  capability = [] { return 80; };
  CHECK_THROWS_WITH(graph("on", gpu, true), Catch::Contains("experts' products wait for the host on a device of compute capability 8.0"));
  CHECK_FALSE(graph("auto", gpu, true));
}
