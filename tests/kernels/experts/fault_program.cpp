#include "kernels/fault_program.h"

#include "experts/combine.cu"
#include "experts/combine_backward.cu"
#include "experts/count.cu"
#include "experts/experts.cpp"
#include "experts/gather.cu"
#include "experts/place.cu"
#include "experts/scan.cu"
#include "kernels/experts/cases.h"
#include "kernels/experts/run.h"

using namespace meristem::test;

int main() {
  std::vector<ExpertCase> cases{{"whole sectors", 12, 4, 8, 256}};
  for (const ExpertCase& one : expert_cases()) cases.push_back(one);
  return solve_all(cases, [](const ExpertCase& one) {
    ExpertProblem problem(one);
    run_experts(problem);
    const std::string wrong = check_experts(problem).wrong;
    return wrong.empty() && one.width == 256 ? check_row_traffic(problem) : wrong;
  });
}
