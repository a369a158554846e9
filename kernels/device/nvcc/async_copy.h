// cp.async: 16 bytes from global to shared memory past the registers, in groups that a thread commits and waits for.
#pragma once

#include <cstdint>

#include "device/nvcc/global.h"
#include "device/nvcc/macros.h"
#include "device/types.h"

namespace meristem::kernels::device {

// Zeros where not valid; `from` is then not read and may point anywhere.
template <class T>
MERISTEM_DEVICE void cp_async_16(SharedAddress to, gptr<T> from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from.raw), "r"(valid ? 16 : 0) : "memory");
}
MERISTEM_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `pending` of this thread's latest groups are in flight. Other threads see the bytes after a barrier.
template <int pending>
MERISTEM_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace meristem::kernels::device
