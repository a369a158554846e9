// The dense kernels' problems on a GPU: managed memory, which the host fills and reads in place.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "support/catch.h"

namespace meristem::test {

template <class T>
class ManagedArray {
 public:
  explicit ManagedArray(std::size_t count) : count_(count) {
    REQUIRE(cudaMallocManaged(&data_, count * sizeof(T) + 1) == cudaSuccess);
    std::memset(static_cast<void*>(data_), 0xFF, count * sizeof(T));
  }
  ~ManagedArray() { cudaFree(data_); }
  ManagedArray(const ManagedArray&) = delete;
  ManagedArray& operator=(const ManagedArray&) = delete;
  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

struct GpuMemory {
  template <class T>
  using Array = ManagedArray<T>;
  static constexpr bool kOnGpu = true;
  static void finish() { REQUIRE(cudaDeviceSynchronize() == cudaSuccess); }
};

}  // namespace meristem::test
