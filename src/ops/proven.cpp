#include "ops/proven.h"

#include <algorithm>
#include <array>

namespace meristem::ops {
namespace {

// From kernels/proven.json, by CMake.
constexpr std::array<std::string_view, MERISTEM_PROVEN_COUNT> kProvenKernels{MERISTEM_PROVEN_KERNELS};

}  // namespace

bool kernel_proven(std::string_view op) { return std::find(kProvenKernels.begin(), kProvenKernels.end(), op) != kProvenKernels.end(); }

}  // namespace meristem::ops
