// Counts the bytes that tensors hold on the host: LibTorch's own allocation with a counter before it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

namespace meristem::test {

class CountingAllocator : public at::Allocator {
 public:
  // The one in force; the first call puts it there. Tensors that are older are not counted.
  static CountingAllocator& install() {
    static auto* allocator = [] {
      auto* counting = new CountingAllocator;  // lives as long as any tensor
      c10::SetCPUAllocator(counting, /*priority=*/100);
      return counting;
    }();
    return *allocator;
  }

  std::int64_t held() const { return held_; }
  std::int64_t peak() const { return peak_; }
  void reset_peak() { peak_ = held_; }

  at::DataPtr allocate(std::size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) {
      const std::lock_guard lock(mutex_);
      sizes_[data] = static_cast<std::int64_t>(bytes);
      held_ += sizes_[data];
      peak_ = std::max(peak_, held_);
    }
    return {data, data, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void release(void* data) {
    if (data == nullptr) return;
    CountingAllocator& counting = install();
    {
      const std::lock_guard lock(counting.mutex_);
      counting.held_ -= counting.sizes_[data];
      counting.sizes_.erase(data);
    }
    c10::free_cpu(data);
  }

  std::mutex mutex_;
  std::unordered_map<void*, std::int64_t> sizes_;
  std::int64_t held_ = 0, peak_ = 0;
};

}  // namespace meristem::test
