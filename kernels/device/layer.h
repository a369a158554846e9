// The thin layer that kernels are written against. nvcc compiles it to inline PTX (nvcc/), any other compiler to a CPU that runs the same
// kernel source thread by thread and checks it (host/). docs/kernels.md lists what each call does; both folders have the same three
// headers.
#pragma once

#include "device/base.h"

#ifdef __CUDACC__
#include "device/nvcc/math.h"
#include "device/nvcc/memory.h"
#include "device/nvcc/threads.h"
#else
#include "device/host/math.h"
#include "device/host/memory.h"
#include "device/host/threads.h"
#endif
