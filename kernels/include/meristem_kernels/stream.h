// What every launch takes and every caller asks first. No CUDA header, so that any compiler reads it.
#pragma once

#include <string>

struct CUstream_st;

namespace meristem::kernels {

using Stream = CUstream_st*;  // a cudaStream_t

// Whether the kernels are in this build and the current device can run them (compute capability 8.0 or later). No call before that.
// Every kernel is asynchronous on its stream; a launch that fails throws std::runtime_error, and so does every call in a build without
// CUDA.
bool available();

// The current device as its driver names it ("NVIDIA H100 80GB HBM3"); empty without one.
std::string device_name();

}  // namespace meristem::kernels
