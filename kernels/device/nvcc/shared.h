// Shared memory by 32-bit byte address. Every access is volatile and clobbers memory: nvcc must not move one across a barrier.
#pragma once

#include <cstdint>

#include "device/nvcc/macros.h"
#include "device/types.h"

namespace meristem::kernels::device {

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

}  // namespace meristem::kernels::device
