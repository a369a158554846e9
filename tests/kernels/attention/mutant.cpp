// What a changed attention source is tried on, part by part (mutation.json). The backward kernels start from the reference's output, so
// that a part needs no kernel of another one.
#include <cstdio>

#include "kernels/attention/cases.h"
#include "kernels/attention/check.h"
#include "kernels/attention/places_check.h"
#include "kernels/attention/refusals.h"
#include "kernels/attention/run_on_cpu.h"
#include "kernels/attention/work.h"
#include "kernels/mutation/driver.h"

namespace {

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

double worst = 0;  // the largest error of all problems, in units of the same-precision reference's

std::string of_kind(const char* kind, const std::string& text) { return text.empty() ? "" : std::string(kind) + ": " + text; }

std::string judge(const Verdict& verdict, const Work& needed) {
  worst = std::max(worst, verdict.worst);
  if (!verdict.wrong.empty()) return of_kind("wrong", verdict.wrong);
  return of_kind("work", compare_work(Grid::current().work, needed));
}

std::string forward_faults(const AttentionCase& one) {
  AttentionProblem problem(one);
  const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
  Grid::current().work = {};
  run_forward(problem);
  return judge(check_forward(problem, truth, same), forward_work(one));
}

std::string backward_faults(const AttentionCase& one) {
  AttentionProblem problem(one);
  const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
  const int width = one.heads * one.head_dim;
  for (int t = 0; t < problem.tokens; ++t) {
    for (int c = 0; c < width; ++c)
      problem.out[AttentionProblem::at(t, c, problem.out_columns)] = bf16_bits(same.out[AttentionProblem::at(t, c, width)]);
  }
  for (std::size_t i = 0; i < problem.log_sum_exp.size(); ++i) problem.log_sum_exp[i] = static_cast<float>(same.log_sum_exp[i]);
  Grid::current().work = {};
  run_backward(problem);
  return judge(check_backward(problem, truth, same), backward_work(one));
}

std::vector<MutantProblem> problems_of(const std::string& part) {
  if (part == "places") {
    return {{"window", [] { return of_kind("wrong", wrong_places()); }}, {"sizes", [] { return of_kind("wrong", wrong_sizes()); }}};
  }
  if (part == "refusals") return {{"refusals", [] { return of_kind("refusal", wrong_refusals()); }}};
  const bool forward = part.rfind("forward", 0) == 0;
  const int head_dim = part.find("128") == std::string::npos ? 64 : 128;
  auto cases = attention_cases();
  for (const AttentionCase& one : random_attention_cases(12)) cases.push_back(one);
  std::vector<MutantProblem> problems;
  for (const AttentionCase& one : cases) {
    if (one.head_dim == head_dim)
      problems.push_back({one.name, [one, forward] { return forward ? forward_faults(one) : backward_faults(one); }});
  }
  return problems;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int status = run_mutant(problems_of(argv[1]), argc, argv);
  if (status == 0) std::printf("largest error: %.2f times the same-precision reference's\n", worst);
  return status;
}
