#include "kernels/dense/adamw.h"

#include "adamw/adamw.cu"
#include "kernels/dense/faults/program.h"
#include "squared_norm/squared_norm.cu"

using namespace meristem::test;

int main() {
  return find_faults(adamw_cases(), [](const AdamwCase& one) {
    std::int64_t count = 0;
    for (const std::int64_t segment : one.counts) count += segment;
    return adamw_faults<CpuMemory>(one) + squared_norm_faults<CpuMemory>(count);
  });
}
