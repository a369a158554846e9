// LibTorch's CPU tensors as device memory of the CPU layer, so that operators run on kernels whose every access is checked.
#pragma once

#include <cstdlib>
#include <cstring>
#include <mutex>

#include <c10/core/CPUAllocator.h>

#include "device/layer.h"

namespace meristem::test {

// While it lives, new tensors are device memory to the kernels, of their own size and no more, and begin as NaN.
class TensorsAsDeviceMemory final : public c10::Allocator {
 public:
  TensorsAsDeviceMemory() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, kPriority); }
  ~TensorsAsDeviceMemory() override { c10::SetCPUAllocator(before_, kPriority); }
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    std::memset(memory, 0xFF, bytes);
    const std::lock_guard lock(mutex_);
    kernels::device::host::GlobalMemory::instance().add(memory, bytes);
    return {memory, memory, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }  // LibTorch's sort allocates without a tensor
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  static constexpr std::uint8_t kPriority = 100;
  static constexpr std::size_t kAlignment = 64;
  inline static std::mutex mutex_;  // LibTorch's products allocate on several threads
  static void release(void* memory) {
    const std::lock_guard lock(mutex_);
    kernels::device::host::GlobalMemory::instance().remove(memory);
    std::free(memory);
  }
  c10::Allocator* before_;
};

}  // namespace meristem::test
