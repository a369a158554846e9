// Global memory: a pointer that the CPU side checks; here it is the raw pointer.
#pragma once

#include <cstdint>

#include "device/nvcc/macros.h"

namespace meristem::kernels::device {

template <class T>
struct gptr {
  T* raw;
  __host__ __device__ __forceinline__ explicit gptr(T* pointer) : raw(pointer) {}
  MERISTEM_DEVICE gptr operator+(std::int64_t elements) const { return gptr(raw + elements); }
};

// V at p, which is aligned to sizeof(V).
template <class V, class T>
MERISTEM_DEVICE V ldg(gptr<T> p) {
  return *reinterpret_cast<const V*>(p.raw);
}
template <class V, class T>
MERISTEM_DEVICE void stg(gptr<T> p, const V& value) {
  *reinterpret_cast<V*>(p.raw) = value;
}
MERISTEM_DEVICE void atomic_add(gptr<float> p, float value) { atomicAdd(p.raw, value); }
MERISTEM_DEVICE void atomic_add(gptr<int> p, int value) { atomicAdd(p.raw, value); }

}  // namespace meristem::kernels::device
