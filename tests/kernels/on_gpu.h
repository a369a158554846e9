// What the kernels' tests on a GPU share: memory, and how fast a call moves its bytes.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "meristem_kernels/device.h"
#include "support/catch.h"

namespace meristem::test {

// Ends the program where no GPU is: Catch2 2 cannot skip, 4 is what CTest shows as skipped.
inline void require_gpu() {
  if (kernels::available()) return;
  std::puts("skipped: no GPU that the kernels run on");
  std::exit(4);
}

inline void check(cudaError_t error) {
  INFO(cudaGetErrorString(error));
  REQUIRE(error == cudaSuccess);
}

// Managed memory, which the host fills and reads in place. It begins as poison; without, pages are taken when touched.
template <class T>
class ManagedArray {
 public:
  explicit ManagedArray(std::size_t count, bool poison = true) : count_(count) {
    check(cudaMallocManaged(&data_, count * sizeof(T) + 1));
    if (poison) std::memset(static_cast<void*>(data_), 0xFF, count * sizeof(T));
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
  static void finish() { check(cudaDeviceSynchronize()); }
};

// Device memory that nobody fills but with zeros: for measuring.
class Bytes {
 public:
  explicit Bytes(std::size_t count) {
    check(cudaMalloc(&data_, count));
    check(cudaMemset(data_, 0, count));
  }
  ~Bytes() { cudaFree(data_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Bytes a second, of the median of 31 calls.
template <class Call>
double rate_of(double bytes, const Call& call) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> milliseconds(34);
  for (float& one : milliseconds) {
    check(cudaEventRecord(begin));
    call();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&one, begin, end));
  }
  std::sort(milliseconds.begin() + 3, milliseconds.end());  // the first three warm up
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return bytes / (1e-3 * static_cast<double>(milliseconds[18]));
}

}  // namespace meristem::test
