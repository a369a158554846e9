// What every kernel's interface shares: the stream, the element types, and whether the device can run the kernels at all. No CUDA header,
// so that any compiler reads it.
#pragma once

#include <string>

struct CUstream_st;

namespace meristem::kernels {

using Stream = CUstream_st*;  // a cudaStream_t

// What the elements of a matrix are, for the kernels that come in both; bf16 as 16-bit words. Sums and statistics are fp32.
enum class Element { kFloat, kBf16 };

// Whether the kernels are in this build and the current device can run them (compute capability 8.0 or later). No call before that.
// Every kernel is asynchronous on its stream; a launch that fails throws std::runtime_error, and so does every call in a build without
// CUDA.
bool available();

// The current device as its driver names it ("NVIDIA H100 80GB HBM3"); empty without one.
std::string device_name();

// Of the current device, ten times the major number and the minor one: 80, 90; 0 without one.
int compute_capability();

}  // namespace meristem::kernels
