// A copy of a test's buffer in the GPU's memory.
#pragma once

#include <cuda_runtime.h>

#include "device/layer.h"
#include "kernels/require_gpu.h"
#include "support/catch.h"

namespace meristem::test {

template <class T>
class OnGpu {
 public:
  explicit OnGpu(const kernels::device::host::Array<T>& host) : host_(host) {
    REQUIRE(cudaMalloc(&data_, host.size() * sizeof(T) + 1) == cudaSuccess);
    REQUIRE(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  T* data() const { return data_; }
  // Back to where it came from.
  void fetch() const { REQUIRE(cudaMemcpy(host_.data(), data_, host_.size() * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess); }

 private:
  const kernels::device::host::Array<T>& host_;
  T* data_ = nullptr;
};

}  // namespace meristem::test
