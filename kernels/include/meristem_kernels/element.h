// The element types of the kernels that come in both.
#pragma once

namespace meristem::kernels {

// What the elements of a matrix are; bf16 as 16-bit words. Sums and statistics are fp32.
enum class Element { kFloat, kBf16 };

}  // namespace meristem::kernels
