#include "ops/paths.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include <proven_kernels.h>
#include "core/errors.h"
#include "meristem_kernels/depth_attention.h"
#include "meristem_kernels/device.h"
#include "meristem_kernels/experts.h"
#include "meristem_kernels/rms_norm.h"
#include "meristem_kernels/rope.h"
#include "ops/cpu/row_kernels.h"

namespace meristem {

at::Device pick_device(int local_rank) {
  if (!torch::cuda::is_available()) return at::kCPU;
  const int gpus = static_cast<int>(torch::cuda::device_count());
  if (local_rank >= gpus) {
    throw InputError(
        fmt::format("LOCAL_RANK: found {}, this machine has {} GPU{}; start one process a GPU", local_rank, gpus, gpus == 1 ? "" : "s"));
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank));
}

std::string device_name(at::Device device) { return device.is_cuda() ? kernels::device_name() : "cpu"; }

}  // namespace meristem

namespace meristem::ops {
namespace {

std::string attention_limit(at::ScalarType compute, const ModelShapes& shapes) {
  if (compute == at::kBFloat16 && (shapes.head_dim == 64 || shapes.head_dim == 128)) return "";
  return fmt::format(" with head dim {} (its kernel takes BFloat16, head dims 64 and 128)", shapes.head_dim);
}

std::string depth_limit(at::ScalarType compute, const ModelShapes& shapes) {
  if (compute != at::kBFloat16) return " (its kernel takes BFloat16)";
  if (!shapes.depth) return "";
  if (shapes.joint && !attention_limit(compute, shapes).empty()) return attention_limit(compute, shapes);
  const int dim = static_cast<int>(shapes.depth->head_dim), group = static_cast<int>(shapes.depth->heads / shapes.depth->kv_heads);
  const int widest = kernels::depth_head_dim_most(group);
  if (dim % 8 != 0 || dim > widest) return fmt::format(" with head dim {} (its kernel takes multiples of 8 up to {})", dim, widest);
  const int most = kernels::depth_group_most(dim);
  if (group > most) return fmt::format(" with {} query heads a key head of {} (its kernel takes up to {})", group, dim, most);
  if (shapes.entries > kernels::kDepthEntries) {
    return fmt::format(" over {} entries (its kernel takes up to {})", shapes.entries, kernels::kDepthEntries);
  }
  return "";
}

std::string experts_limit(at::ScalarType compute, const ModelShapes& shapes) {
  if (compute != at::kBFloat16) return " (its kernel takes BFloat16)";
  if (shapes.experts > kernels::kExpertsMost)
    return fmt::format(" with {} experts (its kernel takes up to {})", shapes.experts, kernels::kExpertsMost);
  return shapes.width % 8 == 0 ? "" : fmt::format(" with width {} (its kernel takes multiples of 8)", shapes.width);
}

// Why the CUDA kernel of an operator cannot run: " with head dim 96 (its kernel takes …)"; empty where it can.
std::string cuda_limit(std::string_view op, at::ScalarType compute, const ModelShapes& shapes) {
  if (op == "attention") return attention_limit(compute, shapes);
  if (op == "depth_attention") return depth_limit(compute, shapes);
  if (op == "experts") return experts_limit(compute, shapes);
  const std::int64_t normed = std::max(shapes.width, shapes.normed_width);
  if (op == "rms_norm" && normed > kernels::kRmsNormMaxWidth)
    return fmt::format(" with width {} (its kernel takes up to {})", normed, kernels::kRmsNormMaxWidth);
  if (op == "rope" && shapes.head_dim > kernels::kRopeMaxHeadDim) {
    return fmt::format(" with head dim {} (its kernel takes up to {})", shapes.head_dim, kernels::kRopeMaxHeadDim);
  }
  return "";
}

// What the reference alone computes: " with …"; empty where the other paths do too.
std::string reference_alone(std::string_view op, const ModelShapes& shapes) {
  if (op == "attention" && shapes.score_cap) return " with model.attention.score_cap";
  if (op == "swiglu" && shapes.geglu) return " with model.feed_forward.kind: geglu";
  return "";
}

// Our own kernels in CUDA are those that are linked; here and there they compute in fp32 or bf16.
bool fused_exists(const Operator<Path>& op, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
                  const ModelShapes& shapes) {
  if (compute == at::kDouble || !reference_alone(op.key, shapes).empty()) return false;
  if (device.is_cpu()) return op.has_own_cpu;
  return op.has_own_cuda && kernels.linked(op.key) && cuda_limit(op.key, compute, shapes).empty();
}

// Where `auto` leaves a CPU's products to LibTorch. Processors with AMX multiply bf16 in tiles, which LibTorch's attention uses and ours
// does not; nobody has measured which is faster there. Products of whole matrices are ours only by name until `plan` forecasts their memory
// within its bounds.
bool left_to_library(std::string_view op, at::ScalarType compute) {
  return op == "linear" || (op == "attention" && compute == at::kBFloat16 && cpu::has_amx_bf16());
}

Path resolve(const Operator<Path>& op, const std::string& asked, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
             const ModelShapes& shapes) {
  const bool fused = fused_exists(op, device, compute, kernels, shapes);
  if (asked == "reference") return Path::kReference;
  // Where LibTorch has no single operator, its composition of operators, the reference, is its path.
  const std::string no_other = reference_alone(op.key, shapes);
  const Path library = op.has_library && no_other.empty() ? Path::kLibrary : Path::kReference;
  if (asked == "library") return library;
  if (asked == "fused") {
    if (fused) return Path::kFused;
    if (device.is_cuda() && !op.has_own_cuda) return library;
    throw InputError(fmt::format("kernels.{}: fused cannot run on {} in {}{}; allowed: reference, library, auto", op.key, device.str(),
                                 c10::toString(compute),
                                 !no_other.empty()  ? no_other
                                 : device.is_cuda() ? cuda_limit(op.key, compute, shapes)
                                                    : ""));
  }
  // auto never picks a CUDA kernel that no GPU has run.
  if (fused && (device.is_cpu() ? !left_to_library(op.key, compute) : kernels.proven(op.key))) return Path::kFused;
  return library;
}

}  // namespace

bool cuda_kernel_linked(std::string_view) { return kernels::available(); }

bool kernel_proven(std::string_view op) { return std::find(kProvenKernels.begin(), kProvenKernels.end(), op) != kProvenKernels.end(); }

Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
                    const ModelShapes& shapes) {
  Paths paths;
  for (std::size_t i = 0; i < kOperators<Path>.size(); ++i) {
    const std::string& asked = config.*kOperators<std::string>[i].of;
    paths.*kOperators<Path>[i].of = resolve(kOperators<Path>[i], asked, device, compute, kernels, shapes);
  }
  return paths;
}

std::string describe(const Paths& paths) {
  std::string text;
  for (const auto& op : kOperators<Path>) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", op.key, path_name(paths.*op.of));
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
