#include "ops/paths.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include <proven_kernels.h>
#include <nlohmann/json.hpp>
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

// Where `auto` leaves a CPU's products to LibTorch, which may be faster there: bf16 with AMX, whose tiles LibTorch uses and ours do not
// (nobody has measured it); products without vector instructions, in fp32 with AVX2 alone, and those of whole matrices in fp32 by MKL on
// Intel's processors, which loses to ours where it multiplies by many experts (docs/results/cpu.md).
bool left_to_library(std::string_view op, at::ScalarType compute) {
  const bool products = op == "linear" || op == "experts";
  if (!products && op != "attention") return false;
  if (compute == at::kBFloat16 && cpu::has_amx_bf16()) return true;
  const std::string_view level = cpu::row_kernels().name;
  if (!products) return false;
  return level == "baseline" || (compute == at::kFloat && (level == "avx2" || (op == "linear" && cpu::is_intel())));
}

// Whether everything that the model asks of the operator's kernel is proven. A mask of two kinds needs both.
bool proven(std::string_view op, const CudaKernels& kernels, at::ScalarType compute, const ModelShapes& shapes, bool in_windows) {
  std::vector<std::string_view> masks;
  if (op == "attention") {
    if (in_windows) masks.emplace_back("window");
    if (shapes.packed) masks.emplace_back("packed");
    if (masks.empty()) masks.emplace_back("causal");
    return std::all_of(masks.begin(), masks.end(),
                       [&](std::string_view mask) { return kernels.proven({op, compute, mask, shapes.head_dim}); });
  }
  if (op != "depth_attention" || !shapes.depth) return kernels.proven({op, compute});
  if (!kernels.proven({op, compute, shapes.joint ? "joint" : "", shapes.depth->head_dim})) return false;
  return !shapes.joint || !shapes.packed || kernels.proven({"attention", compute, "packed", shapes.head_dim});
}

Path resolve(const Operator<Path>& op, const std::string& asked, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
             const ModelShapes& shapes, bool in_windows = false) {
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
  // auto never picks a CUDA kernel that this kind of GPU has not run at this work.
  if (fused && (device.is_cpu() ? !left_to_library(op.key, compute) : proven(op.key, kernels, compute, shapes, in_windows)))
    return Path::kFused;
  return library;
}

}  // namespace

bool cuda_kernel_linked(std::string_view) { return kernels::available(); }

std::vector<Proof> parse_proofs(const std::string& text) {
  std::vector<Proof> found;
  try {
    const auto file = nlohmann::json::parse(text);
    for (const auto& entry : file.at("proofs")) {
      for (const char* key : {"date", "commit"}) entry.at(key).get<std::string>();  // nothing is believed that nobody can look up
      found.push_back({entry.at("kernel"), entry.value("mask", ""), entry.at("dtype"), entry.at("device"), entry.value("head_dim", 0)});
      const Proof& proof = found.back();
      if (proof.device.empty() || (proof.dtype != "bf16" && proof.dtype != "fp32"))
        throw InputError(fmt::format("device '{}', dtype '{}'; allowed: a name; bf16, fp32", proof.device, proof.dtype));
    }
  } catch (const std::exception& error) {
    throw InputError(fmt::format("kernels/proven.json: entry {}: {}", found.size(), error.what()));
  }
  return found;
}

const std::vector<Proof>& proofs() {
  static const std::vector<Proof> found = parse_proofs(kProvenJson);
  return found;
}

bool is_proven(const std::vector<Proof>& proofs, const KernelUse& use, std::string_view device) {
  const std::string_view dtype = use.compute == at::kBFloat16 ? "bf16" : use.compute == at::kFloat ? "fp32" : "";
  return !device.empty() && std::any_of(proofs.begin(), proofs.end(), [&](const Proof& proof) {
    return proof.kernel == use.kernel && proof.mask == use.mask && proof.dtype == dtype &&
           (proof.head_dim == 0 || proof.head_dim == use.head_dim) && proof.device.find(device) != std::string::npos;
  });
}

bool kernel_proven(const KernelUse& use) { return is_proven(proofs(), use, kernels::device_name()); }

Paths resolve_paths(const KernelsConfig& config, at::Device device, at::ScalarType compute, const CudaKernels& kernels,
                    const ModelShapes& shapes) {
  Paths paths;
  for (std::size_t i = 0; i < kOperators<Path>.size(); ++i) {
    const std::string& asked = config.*kOperators<std::string>[i].of;
    const Operator<Path>& op = kOperators<Path>[i];
    paths.*op.of = resolve(op, asked, device, compute, kernels, shapes);
    if (std::string_view(op.key) == "attention" && shapes.windows) {
      const Path in_windows = resolve(op, asked, device, compute, kernels, shapes, /*in_windows=*/true);
      if (in_windows != paths.attention) paths.attention_in_windows = in_windows;
    }
  }
  return paths;
}

std::string describe(const Paths& paths) {
  std::string text;
  for (const auto& op : kOperators<Path>) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", op.key, path_name(paths.*op.of));
    if (std::string_view(op.key) == "attention" && paths.attention_in_windows)
      text += fmt::format(" ({} in windows)", path_name(*paths.attention_in_windows));
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
