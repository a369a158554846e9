// Which implementation of an operator runs. `reference`: plain ATen, obviously right, kept as oracle. `library`: LibTorch's best operator.
// `fused`: our own kernel, on the CPU (ops/cpu) or in CUDA (kernels/). `auto`: the fastest that this device has been shown to run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "core/kernels_config.h"
#include "ops/cuda_limits.h"
#include "ops/proven.h"

namespace meristem::ops {

enum class Path { kReference, kLibrary, kFused };

// A path for each operator, resolved for one device and one compute type.
struct Paths {
  Path attention = Path::kReference, cross_entropy = Path::kReference, adamw = Path::kReference, rms_norm = Path::kReference,
       rope = Path::kReference, swiglu = Path::kReference, depth_attention = Path::kReference, experts = Path::kReference;
  static Paths reference() { return {}; }
};

// Resolves `kernels:` of a config. InputError where `fused` is asked for and cannot run: the message says what can. CUDA kernels
// are asked whether they take the model's shapes.
Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels = {},
                    const ModelShapes& shapes = {});

// "attention library, cross_entropy fused, …" for the log line at the start of a run.
std::string describe(const Paths& paths);

std::string_view path_name(Path path);

}  // namespace meristem::ops
