#include "kernels/dense/swiglu.h"

#include "kernels/dense/faults/program.h"
#include "swiglu/swiglu.cpp"
#include "swiglu/swiglu_bf16.cu"
#include "swiglu/swiglu_fp32.cu"

using namespace meristem::test;

int main() { return find_faults(swiglu_cases(), swiglu_faults<CpuMemory>); }
