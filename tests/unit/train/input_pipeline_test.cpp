// The pinned double buffer: the same tokens as without it, whoever is late.
#include "train/input_pipeline.h"

#include <deque>
#include <functional>

#include "support/catch.h"
#include "unit/train/late_copies.h"
#include "unit/train/small_run.h"

using namespace meristem;

namespace {

bool holds(const at::Tensor& words, const std::vector<std::int32_t>& wanted) {
  const at::Tensor host = words.cpu().contiguous();
  return std::equal(wanted.begin(), wanted.end(), host.data_ptr<std::int32_t>(), host.data_ptr<std::int32_t>() + host.numel());
}

void check_batch(const StaticInputs& inputs, const HostBatch& batch) {
  CHECK(holds(inputs.batch.tokens_N, batch.inputs));
  CHECK(holds(inputs.batch.targets_N, batch.targets));
  CHECK(holds(inputs.batch.positions_N, batch.positions));
  CHECK(holds(inputs.source_S, batch.source));
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

TEST_CASE("every batch arrives whole and in order, in buffers that stay where they are") {
  InputPipeline pipeline(std::make_unique<test::LateCopies>(), at::kCPU);
  const void* place = nullptr;
  for (std::int64_t k = 0; k < 7; ++k) {
    const HostBatch batch = test::rows(4 * k, 4);
    const StaticInputs& inputs = pipeline.load(batch);
    check_batch(inputs, batch);
    CHECK(inputs.shape == "4x16");
    CHECK(inputs.batch.segments.lengths == std::vector<std::int64_t>(4, 16));
    CHECK(holds(inputs.batch.segments.offsets, batch.boundaries));
    if (k > 0) CHECK(inputs.words.data_ptr() == place);
    place = inputs.words.data_ptr();
  }
}

TEST_CASE("the device may be far behind: nothing is packed over before it was copied, nor copied over before it was taken") {
  std::deque<std::function<void()>> compute;  // what the device has still to do, in order
  InputPipeline pipeline(std::make_unique<SlowCopies>(compute), at::kCPU);
  std::vector<at::Tensor> seen;
  for (std::int64_t k = 0; k < 9; ++k) {
    const StaticInputs& inputs = pipeline.load(test::rows(4 * k, 4));
    compute.push_back([&seen, &inputs] { seen.push_back(inputs.batch.tokens_N.clone()); });
  }
  CHECK(compute.size() > 4);  // behind indeed
  while (!compute.empty()) run_first(compute);
  REQUIRE(seen.size() == 9);
  for (std::int64_t k = 0; k < 9; ++k) CHECK(holds(seen[static_cast<std::size_t>(k)], test::rows(4 * k, 4).inputs));
}

TEST_CASE("documents share buffers up to a power of two; the rest are empty segments at the end") {
  InputPipeline pipeline(std::make_unique<test::LateCopies>(), at::kCPU);
  const HostBatch three = with_documents(0, {0, 5, 30, 64}), seven = with_documents(4, {0, 1, 2, 3, 4, 5, 40, 64});
  const StaticInputs& first = pipeline.load(three);
  CHECK(first.shape == "4x16, 8 segments");
  CHECK(holds(first.batch.segments.offsets, {0, 5, 30, 64, 64, 64, 64, 64, 64}));
  CHECK(first.batch.segments.lengths.empty());
  const StaticInputs& second = pipeline.load(seven);
  CHECK(&second == &first);
  CHECK(holds(second.batch.segments.offsets, {0, 1, 2, 3, 4, 5, 40, 64, 64}));
  check_batch(second, seven);
  std::vector<std::int32_t> many{0};
  while (many.back() < 64) many.push_back(many.back() + 4);
  many.back() = 64;
  CHECK(pipeline.load(with_documents(8, many)).shape == "4x16, 16 segments");
  CHECK(pipeline.load(test::rows(0, 4)).shape == "4x16");
}
