// Global memory: a pointer that the CPU side checks; here it is the raw pointer.
#pragma once

#include <cstdint>

#include "device/nvcc/macros.h"
#include "device/types.h"

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
// 16 bytes that nobody touches again soon: they pass the caches by (ld.global.cs, st.global.cs).
template <class T>
MERISTEM_DEVICE Vec4 ldg_streaming(gptr<T> p) {
  const uint4 four = __ldcs(reinterpret_cast<const uint4*>(p.raw));
  return {{four.x, four.y, four.z, four.w}};
}
template <class T>
MERISTEM_DEVICE void stg_streaming(gptr<T> p, const Vec4& value) {
  __stcs(reinterpret_cast<uint4*>(p.raw), make_uint4(value.x[0], value.x[1], value.x[2], value.x[3]));
}
MERISTEM_DEVICE void atomic_add(gptr<float> p, float value) { atomicAdd(p.raw, value); }
MERISTEM_DEVICE void atomic_add(gptr<int> p, int value) { atomicAdd(p.raw, value); }

}  // namespace meristem::kernels::device
