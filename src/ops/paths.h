// Which implementation of an operator runs, and on which device. `reference`: plain ATen, obviously right, kept as oracle. `library`:
// LibTorch's best operator. `fused`: our own kernel, on the CPU (ops/cpu) or in CUDA (kernels/). `auto`: the fastest that this device has
// been shown to run.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/kernels_config.h"
#include "meristem_kernels/device.h"

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
  // Attention's path in blocks that look through a window, where it is another: kernels are proven for each kind of mask.
  std::optional<Path> attention_in_windows = {};
  Path attention_of(std::int64_t window) const { return window > 0 ? attention_in_windows.value_or(attention) : attention; }
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
  bool packed = false;            // several documents in a sequence, of which none sees another
  bool windows = false;           // in some blocks attention looks through a window
  bool geglu = false;             // in SwiGLU's place, which the reference alone computes
};

// A kernel at its work. mask: "causal", "window", "packed" or "joint" (with depth); empty where the kernel knows no masks. head_dim: 0
// where it does not matter.
struct KernelUse {
  std::string_view kernel;
  at::ScalarType compute = at::kBFloat16;
  std::string_view mask = {};
  std::int64_t head_dim = 0;
};

// An entry of kernels/proven.json: on this device the kernel has passed its tests, compute-sanitizer found nothing, and it was faster than
// what would run without it. dtype: "bf16" or "fp32". Device: as its driver names it.
struct Proof {
  std::string kernel, mask, dtype, device;
  std::int64_t head_dim = 0;  // 0: any
};

// Of the file's text. InputError where it is not as scripts/bench/gpu_publish.py writes it.
std::vector<Proof> parse_proofs(const std::string& text);
// kernels/proven.json, compiled in.
const std::vector<Proof>& proofs();
// Whether one of them is of this use, on a device whose name holds `device`.
bool is_proven(const std::vector<Proof>& proofs, const KernelUse& use, std::string_view device);

// Whether this build holds CUDA kernels that the device can run, and whether a proof allows this use of one here.
bool cuda_kernel_linked(std::string_view op);
bool kernel_proven(const KernelUse& use);

// The two questions as a value, so that a test can answer them otherwise.
struct CudaKernels {
  bool (*linked)(std::string_view op) = cuda_kernel_linked;
  std::function<bool(const KernelUse&)> proven = kernel_proven;
  int (*capability)() = kernels::compute_capability;
};

// Resolves `kernels:` of a config. InputError where `fused` is asked for and cannot run: the message says what can. CUDA kernels
// are asked whether they take the model's shapes.
Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels = {},
                    const ModelShapes& shapes = {});

// "attention library, cross_entropy fused, …" for the log line at the start of a run.
std::string describe(const Paths& paths);

std::string_view path_name(Path path);

}  // namespace meristem::ops
