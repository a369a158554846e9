// What a changed dense kernel is tried on: a part is a kernel, those of rows with one element type (mutation.json).
#include <algorithm>
#include <cstdio>

#include "kernels/dense/adamw_on_cpu.h"
#include "kernels/dense/cross_entropy_on_cpu.h"
#include "kernels/dense/rms_norm_on_cpu.h"
#include "kernels/dense/rope_on_cpu.h"
#include "kernels/dense/swiglu_on_cpu.h"
#include "kernels/mutation/driver.h"

namespace {

using namespace meristem::test;

template <class X>
std::vector<DenseProblem> row_problems(const std::string& kernel) {
  if (kernel == "rms_norm") return rms_norm_problems<X>();
  if (kernel == "rope") return rope_problems<X>();
  if (kernel == "swiglu") return swiglu_problems<X>();
  if (kernel == "cross_entropy") return cross_entropy_problems<X>();
  return {};
}

std::vector<DenseProblem> dense_problems(const std::string& part) {
  if (part == "adamw") return adamw_problems();
  if (part == "squared_norm") return squared_norm_problems();
  const std::string kernel = part.substr(0, part.find(' '));
  return part == kernel + " bf16" ? row_problems<std::uint16_t>(kernel) : row_problems<float>(kernel);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<MutantProblem> problems;
  for (const DenseProblem& one : dense_problems(argv[1])) problems.push_back({one.name, one.faults});
  return problems.empty() ? 2 : run_mutant(problems, argc, argv);
}
