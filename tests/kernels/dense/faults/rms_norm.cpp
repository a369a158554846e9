#include "kernels/dense/rms_norm.h"

#include "kernels/dense/faults/program.h"
#include "rms_norm/backward_bf16.cu"
#include "rms_norm/backward_fp32.cu"
#include "rms_norm/forward_bf16.cu"
#include "rms_norm/forward_fp32.cu"
#include "rms_norm/rms_norm.cpp"
#include "rows/column_sums.cu"

using namespace meristem::test;

int main() { return find_faults(rms_norm_cases(), rms_norm_faults<CpuMemory>); }
