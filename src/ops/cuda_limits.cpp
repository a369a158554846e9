#include "ops/cuda_limits.h"

#include <bit>

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
  const std::int64_t dim = shapes.depth->head_dim, group = shapes.depth->heads / shapes.depth->kv_heads, widest = group == 1 ? 1024 : 256;
  if (dim % 8 != 0 || dim > widest) return fmt::format(" with head dim {} (its kernel takes multiples of 8 up to {})", dim, widest);
  const std::int64_t most = dim > 128 ? 4 : 1024 / static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(dim)));
  if (group > most) return fmt::format(" with {} query heads a key head of {} (its kernel takes up to {})", group, dim, most);
  if (shapes.entries > kernels::kDepthEntries) {
    return fmt::format(" over {} entries (its kernel takes up to {})", shapes.entries, kernels::kDepthEntries);
  }
  return "";
}

std::string experts_limit(at::ScalarType compute, const ModelShapes& shapes) {
  if (compute != at::kBFloat16) return " (its kernel takes BFloat16)";
  if (shapes.experts > kernels::kExpertsMost) return fmt::format(" with {} experts (its kernel takes up to {})", shapes.experts, kernels::kExpertsMost);
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
