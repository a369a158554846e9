#include "ops/paths.h"

#include <array>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem::ops {
namespace {

struct Operator {
  const char* key;
  std::string KernelsConfig::*asked;
  Path Paths::*path;
  bool has_library;  // LibTorch has an operator, or a composition of them that is faster than the reference
  bool has_own_cpu;  // ops/cpu holds a kernel of our own; not for attention and experts, whose library path is fused already
};

const std::array<Operator, 8> kOperators{{{"attention", &KernelsConfig::attention, &Paths::attention, true, false},
                                          {"cross_entropy", &KernelsConfig::cross_entropy, &Paths::cross_entropy, true, true},
                                          {"adamw", &KernelsConfig::adamw, &Paths::adamw, true, true},
                                          {"rms_norm", &KernelsConfig::rms_norm, &Paths::rms_norm, false, true},
                                          {"rope", &KernelsConfig::rope, &Paths::rope, false, true},
                                          {"swiglu", &KernelsConfig::swiglu, &Paths::swiglu, false, true},
                                          {"depth_attention", &KernelsConfig::depth_attention, &Paths::depth_attention, false, true},
                                          {"experts", &KernelsConfig::experts, &Paths::experts, true, false}}};

// Our own kernels in CUDA are those that are linked; here and there they compute in fp32 or bf16.
bool fused_exists(const Operator& op, at::Device device, at::ScalarType compute, const CudaKernels& kernels, const ModelShapes& shapes) {
  if (compute == at::kDouble) return false;
  if (device.is_cpu()) return op.has_own_cpu;
  return kernels.linked(op.key) && cuda_limit(op.key, compute, shapes).empty();
}

Path resolve(const Operator& op, const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
             const ModelShapes& shapes) {
  const std::string& asked = config.*op.asked;
  const bool fused = fused_exists(op, device, compute, kernels, shapes);
  if (asked == "reference") return Path::kReference;
  // Where LibTorch has no single operator, its composition of operators, the reference, is its path.
  if (asked == "library") return op.has_library ? Path::kLibrary : Path::kReference;
  if (asked == "fused") {
    if (fused) return Path::kFused;
    throw InputError(fmt::format("kernels.{}: fused cannot run on {} in {}{}; allowed: reference, library, auto", op.key, device.str(),
                                 c10::toString(compute), device.is_cuda() ? cuda_limit(op.key, compute, shapes) : ""));
  }
  // auto never picks a CUDA kernel that no GPU has run.
  if (fused && (device.is_cpu() || kernels.proven(op.key))) return Path::kFused;
  return op.has_library ? Path::kLibrary : Path::kReference;
}

}  // namespace

Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
                    const ModelShapes& shapes) {
  Paths paths;
  for (const Operator& op : kOperators) paths.*op.path = resolve(op, config, device, compute, kernels, shapes);
  return paths;
}

std::string describe(const Paths& paths) {
  std::string text;
  for (const Operator& op : kOperators) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", op.key, path_name(paths.*op.path));
  }
  return text;
}

std::string_view path_name(Path path) {
  switch (path) {
    case Path::kReference: return "reference";
    case Path::kLibrary: return "library";
    case Path::kFused: return "fused";
  }
  return "?";
}

}  // namespace meristem::ops
