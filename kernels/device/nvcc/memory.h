// Global memory, shared memory, and the copy from one to the other.
#pragma once

#include <cstdint>

#include "device/base.h"

namespace meristem::kernels::device {

// A pointer to global memory that the CPU side checks; here it is the raw pointer.
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
// nvcc takes a struct's words apart and then stores each by itself, whatever the struct's alignment says.
template <class T>
MERISTEM_DEVICE void stg(gptr<T> p, const Vec4& value) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p.raw), "r"(value.x[0]), "r"(value.x[1]), "r"(value.x[2]), "r"(value.x[3])
               : "memory");
}
template <class T>
MERISTEM_DEVICE void stg(gptr<T> p, const Vec2& value) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p.raw), "r"(value.x[0]), "r"(value.x[1]) : "memory");
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
// To two neighbours, aligned to 8 bytes; each for itself.
MERISTEM_DEVICE void atomic_add_2(gptr<float> p, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(p.raw), "f"(first), "f"(second) : "memory");
#else
  atomicAdd(p.raw, first);
  atomicAdd(p.raw + 1, second);
#endif
}

// Shared memory by 32-bit byte address. Every access is volatile and clobbers memory: nvcc must not move one across a barrier.

// First byte of the block's dynamic shared memory, aligned to 128.
MERISTEM_DEVICE SharedAddress shared_base() {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  return static_cast<SharedAddress>(__cvta_generic_to_shared(dynamic_shared));
}

using ::float2;

MERISTEM_DEVICE void load_shared(SharedAddress from, std::uint32_t& to) {
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(to) : "r"(from) : "memory");
}
MERISTEM_DEVICE void load_shared(SharedAddress from, float& to) {
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(to) : "r"(from) : "memory");
}
MERISTEM_DEVICE void load_shared(SharedAddress from, int& to) { asm volatile("ld.shared.s32 %0, [%1];" : "=r"(to) : "r"(from) : "memory"); }
MERISTEM_DEVICE void load_shared(SharedAddress from, float2& to) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to.x), "=f"(to.y) : "r"(from) : "memory");
}
MERISTEM_DEVICE void load_shared(SharedAddress from, double& to) {
  asm volatile("ld.shared.f64 %0, [%1];" : "=d"(to) : "r"(from) : "memory");
}
MERISTEM_DEVICE void load_shared(SharedAddress from, Vec4& to) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.x[0]), "=r"(to.x[1]), "=r"(to.x[2]), "=r"(to.x[3])
               : "r"(from)
               : "memory");
}
template <class T>
MERISTEM_DEVICE T lds(SharedAddress from) {
  T value;
  load_shared(from, value);
  return value;
}
MERISTEM_DEVICE void sts(SharedAddress to, std::uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
MERISTEM_DEVICE void sts(SharedAddress to, float value) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory"); }
MERISTEM_DEVICE void sts(SharedAddress to, int value) { asm volatile("st.shared.s32 [%0], %1;" ::"r"(to), "r"(value) : "memory"); }
MERISTEM_DEVICE void sts(SharedAddress to, double value) { asm volatile("st.shared.f64 [%0], %1;" ::"r"(to), "d"(value) : "memory"); }
MERISTEM_DEVICE void sts(SharedAddress to, const Vec4& value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x[0]), "r"(value.x[1]), "r"(value.x[2]), "r"(value.x[3])
               : "memory");
}
MERISTEM_DEVICE void atomic_add_shared(SharedAddress to, int value) {
  asm volatile("red.shared.add.s32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
MERISTEM_DEVICE void atomic_add_shared(SharedAddress to, float value) {
  asm volatile("red.shared.add.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
}

// cp.async: 16 bytes from global to shared memory past the registers, in groups that a thread commits and waits for. Zeros where not
// valid; `from` is then not read and may point anywhere.
template <class T>
MERISTEM_DEVICE void cp_async_16(SharedAddress to, gptr<T> from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from.raw), "r"(valid ? 16 : 0) : "memory");
}
// The same of four bytes, through the first-level cache.
template <class T>
MERISTEM_DEVICE void cp_async_4(SharedAddress to, gptr<T> from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from.raw), "r"(valid ? 4 : 0) : "memory");
}
MERISTEM_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `pending` of this thread's latest groups are in flight. Other threads see the bytes after a barrier.
template <int pending>
MERISTEM_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace meristem::kernels::device
