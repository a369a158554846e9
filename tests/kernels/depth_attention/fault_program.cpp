#include "kernels/fault_program.h"

#include "depth_attention/backward.h"
#include "depth_attention/depth_attention.cpp"
#include "depth_attention/forward.h"
#include "kernels/depth_attention/cases.h"
#include "kernels/depth_attention/run.h"

using namespace meristem::test;

int main() {
  std::vector<DepthCase> cases{{"dense", 8, 8, 2, 64, 5, false, 1, 0, 0, false},
                               {"dense and wide", 4, 2, 2, 512, 3, false, 1, 0, 0, false}};
  for (const DepthCase& one : depth_cases()) cases.push_back(one);
  return solve_all(cases, [](const DepthCase& one) {
    meristem::kernels::device::host::Grid::current().traffic.clear();
    DepthProblem problem(one);
    run_depth(problem);
    const std::string wrong = check_depth(problem).wrong;
    return wrong.empty() && !one.apart ? check_traffic(problem) : wrong;
  });
}
