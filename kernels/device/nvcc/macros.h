// The four macros of a kernel's source.
#pragma once

#define MERISTEM_DEVICE __device__ __forceinline__
// threads: of a block, exactly; blocks: at least that many on an SM, which caps the registers.
#define MERISTEM_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define MERISTEM_UNROLL _Pragma("unroll")
#define MERISTEM_GRID_CONSTANT __grid_constant__
