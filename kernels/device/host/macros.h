// The four macros of a kernel's source, where the CPU runs it.
#pragma once

#define MERISTEM_DEVICE inline
#define MERISTEM_KERNEL(threads, blocks) inline void
#define MERISTEM_UNROLL
#define MERISTEM_GRID_CONSTANT
