#include "kernels/dense/cross_entropy.h"

#include "cross_entropy/cross_entropy.cpp"
#include "cross_entropy/cross_entropy_bf16.cu"
#include "cross_entropy/cross_entropy_fp32.cu"
#include "kernels/dense/faults/program.h"

using namespace meristem::test;

int main() { return find_faults(cross_entropy_cases(), cross_entropy_faults<CpuMemory>); }
