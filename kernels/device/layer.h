// The thin layer that kernels are written against. nvcc compiles it to inline PTX (nvcc/), any other compiler to a CPU that runs the same
// kernel source thread by thread and checks it (host/). docs/kernels.md lists what each call does; both folders have the same file names.
#pragma once

#include "device/types.h"

#ifdef __CUDACC__
#include "device/nvcc/async_copy.h"
#include "device/nvcc/global.h"
#include "device/nvcc/index.h"
#include "device/nvcc/launch.h"
#include "device/nvcc/macros.h"
#include "device/nvcc/math.h"
#include "device/nvcc/matrix.h"
#include "device/nvcc/registers.h"
#include "device/nvcc/shared.h"
#include "device/nvcc/sync.h"
#include "device/nvcc/warp.h"
#else
#include "device/host/async_copy.h"
#include "device/host/global.h"
#include "device/host/index.h"
#include "device/host/launch.h"
#include "device/host/macros.h"
#include "device/host/math.h"
#include "device/host/matrix.h"
#include "device/host/registers.h"
#include "device/host/shared.h"
#include "device/host/sync.h"
#include "device/host/warp.h"
#endif
