// Checks what a caller gives.
#include <stdexcept>
#include <string>
#include <utility>

#include "experts/parameters.h"

namespace meristem::kernels {
namespace {

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("experts: " + what);
}

void check(const ExpertShape& shape) {
  require(shape.tokens >= 0, "a negative number of tokens");
  require(shape.experts >= 1 && shape.experts <= kExpertsMost,
          std::to_string(shape.experts) + " experts; allowed: 1 to " + std::to_string(kExpertsMost));
  require(shape.choices >= 1 && shape.choices <= shape.experts,
          std::to_string(shape.choices) + " choices a token of " + std::to_string(shape.experts) + " experts");
  require(static_cast<std::int64_t>(shape.tokens) * shape.choices <= std::int64_t{1} << 30, "more than 2^30 choices");
  require(shape.width > 0 && shape.width % 8 == 0, "width " + std::to_string(shape.width) + "; allowed: multiples of 8");
}

void check_aligned(const void* matrix, const char* name) {
  require(reinterpret_cast<std::uintptr_t>(matrix) % 16 == 0, std::string(name) + " is not aligned to 16 bytes");
}

int tiles_of(const ExpertShape& shape) { return (shape.tokens * shape.choices + detail::kExpertTile - 1) / detail::kExpertTile; }

}  // namespace

std::int64_t expert_sort_scratch(const ExpertShape& shape) {
  check(shape);
  return (static_cast<std::int64_t>(tiles_of(shape)) + 1) * shape.experts;
}

void expert_sort(const ExpertShape& shape, const std::int64_t* chosen, std::int32_t* scratch, std::int32_t* place, std::int32_t* ends,
                 Stream stream) {
  check(shape);
  const int tiles = tiles_of(shape);
  std::int32_t* const counts = scratch + static_cast<std::int64_t>(tiles) * shape.experts;
  const detail::ExpertSortParameters p{shape.tokens * shape.choices, shape.experts, tiles, chosen, scratch, counts, place, ends};
  detail::launch_expert_count(p, stream);
  detail::launch_expert_scan(p, stream);
  detail::launch_expert_place(p, stream);
}

void expert_gather(const ExpertShape& shape, const std::uint16_t* x, const std::int32_t* place, std::uint16_t* rows, Stream stream) {
  check(shape);
  check_aligned(x, "x");
  check_aligned(rows, "rows");
  detail::launch_expert_gather({shape, place, nullptr, x, nullptr, rows, nullptr}, stream);
}

void expert_combine(const ExpertShape& shape, const std::uint16_t* rows, const std::int32_t* place, const float* weights, std::uint16_t* y,
                    Stream stream) {
  check(shape);
  check_aligned(rows, "rows");
  check_aligned(y, "y");
  detail::launch_expert_combine({shape, place, weights, nullptr, rows, y, nullptr}, stream);
}

void expert_combine_backward(const ExpertShape& shape, const std::uint16_t* dy, const std::uint16_t* rows, const std::int32_t* place,
                             const float* weights, std::uint16_t* d_rows, float* d_weights, Stream stream) {
  check(shape);
  for (const auto& [matrix, name] : {std::pair{dy, "dy"}, {rows, "rows"}, {static_cast<const std::uint16_t*>(d_rows), "d_rows"}}) {
    check_aligned(matrix, name);
  }
  detail::launch_expert_combine_backward({shape, place, weights, dy, rows, d_rows, d_weights}, stream);
}

}  // namespace meristem::kernels
