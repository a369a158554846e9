// Which implementation of an operator runs, and on which device. `reference`: plain ATen, obviously right, kept as oracle. `library`:
// LibTorch's best operator. `fused`: our own kernel, on the CPU (ops/cpu) or in CUDA (kernels/). `auto`: the fastest that this device has
// been shown to run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "core/kernels_config.h"

namespace meristem {

// The device that this process computes on: the first CUDA device, else the CPU.
at::Device pick_device(int local_rank = 0);

// As its driver names it ("NVIDIA H200"), or "cpu".
std::string device_name(at::Device device);

}  // namespace meristem

namespace meristem::ops {

enum class Path { kReference, kLibrary, kFused };

// A path for each operator, resolved for one device and one compute type.
struct Paths : PerOperator<Path> {
  Paths() : PerOperator<Path>{} {}
  static Paths reference() { return {}; }
};

// Query heads and the key/value heads that they share, how far back a token looks, and whether scores are capped.
struct HeadShape {
  std::int64_t heads, kv_heads, head_dim;
  std::int64_t window = 0;  // tokens that one sees, itself the last of them; 0: all before it
  double score_cap = 0;     // scores s become cap tanh(s / cap); 0: they stay
  std::int64_t query_columns() const { return heads * head_dim; }
  std::int64_t kv_columns() const { return kv_heads * head_dim; }
  std::int64_t columns() const { return query_columns() + 2 * kv_columns(); }
};

// The sizes of a model that the CUDA kernels have limits for; 0: it has no such part.
struct ModelShapes {
  std::int64_t width = 0, head_dim = 64;
  std::optional<HeadShape> depth = {};  // of attention over depth, as ops/depth_attention.h takes it
  bool joint = false;                   // with sequence attention, in one softmax
  std::int64_t entries = 0;             // the most that a token attends over
  std::int64_t experts = 0;
  std::int64_t normed_width = 0;  // of the widest row of a norm, where that is wider than width
  bool score_cap = false;         // of attention, which the reference alone computes
  bool geglu = false;             // in SwiGLU's place, which the reference alone computes
};

// Whether this build holds CUDA kernels that the device can run, and which of them a GPU has run and passed (kernels/proven.json, compiled
// in).
bool cuda_kernel_linked(std::string_view op);
bool kernel_proven(std::string_view op);

// The two questions as a value, so that a test can answer them otherwise.
struct CudaKernels {
  bool (*linked)(std::string_view op) = cuda_kernel_linked;
  bool (*proven)(std::string_view op) = kernel_proven;
};

// Resolves `kernels:` of a config. InputError where `fused` is asked for and cannot run: the message says what can. CUDA kernels
// are asked whether they take the model's shapes.
Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels = {},
                    const ModelShapes& shapes = {});

// "attention library, cross_entropy fused, …" for the log line at the start of a run.
std::string describe(const Paths& paths);

std::string_view path_name(Path path);

}  // namespace meristem::ops
