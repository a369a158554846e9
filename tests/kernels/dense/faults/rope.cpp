#include "kernels/dense/rope.h"

#include "kernels/dense/faults/program.h"
#include "rope/backward_bf16.cu"
#include "rope/backward_fp32.cu"
#include "rope/forward_bf16.cu"
#include "rope/forward_fp32.cu"
#include "rope/rope.cpp"
#include "rows/column_sums.cu"

using namespace meristem::test;

int main() { return find_faults(rope_cases(), rope_faults<CpuMemory>); }
