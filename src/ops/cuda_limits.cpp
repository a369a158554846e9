#include "ops/cuda_limits.h"

#include <fmt/format.h>

#include "meristem_kernels/depth_attention.h"
#include "meristem_kernels/experts.h"
#include "meristem_kernels/rms_norm.h"
#include "meristem_kernels/rope.h"

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

}  // namespace

std::string cuda_limit(std::string_view op, at::ScalarType compute, const ModelShapes& shapes) {
  if (op == "attention") return attention_limit(compute, shapes);
  if (op == "depth_attention") return depth_limit(compute, shapes);
  if (op == "experts") return experts_limit(compute, shapes);
  if (op == "rms_norm" && shapes.width > kernels::kRmsNormMaxWidth) {
    return fmt::format(" with width {} (its kernel takes up to {})", shapes.width, kernels::kRmsNormMaxWidth);
  }
  if (op == "rope" && shapes.head_dim > kernels::kRopeMaxHeadDim) {
    return fmt::format(" with head dim {} (its kernel takes up to {})", shapes.head_dim, kernels::kRopeMaxHeadDim);
  }
  return "";
}

}  // namespace meristem::ops
