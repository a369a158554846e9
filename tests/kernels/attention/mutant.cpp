// One program for one version of the attention source: solves the grid of problems and says what it found. mutate.py compiles it.
// With MERISTEM_FORWARD_ONLY, head dim 64 and the forward kernel alone, which compiles faster.
#include <cstdio>
#include <exception>

#include "attention/forward.h"
#ifndef MERISTEM_FORWARD_ONLY
#include "attention/backward_keys.h"
#include "attention/backward_queries.h"
#include "attention/delta.h"
#endif
#include "kernels/attention/cases.h"
#include "kernels/attention/check.h"
#include "kernels/attention/run_on_cpu.h"

namespace meristem::kernels {

void attention_forward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionOutput out,
                       float* log_sum_exp, Stream stream) {
  const detail::ForwardParameters p{shape, q, k, v, out, log_sum_exp};
#ifdef MERISTEM_FORWARD_ONLY
  detail::launch_attention_forward<64>(p, stream);
#else
  shape.head_dim == 64 ? detail::launch_attention_forward<64>(p, stream) : detail::launch_attention_forward<128>(p, stream);
#endif
}

void attention_backward(const AttentionShape& shape, AttentionInput q, AttentionInput k, AttentionInput v, AttentionInput out,
                        AttentionInput d_out, const float* log_sum_exp, float* delta, AttentionOutput dq, AttentionOutput dk,
                        AttentionOutput dv, Stream stream) {
#ifndef MERISTEM_FORWARD_ONLY
  const auto run = [&]<int D>() {
    const detail::BackwardParameters p{shape, q, k, v, out, d_out, log_sum_exp, delta, dq, dk, dv};
    detail::launch_attention_delta<D>(p, stream);
    detail::launch_attention_backward_keys<D>(p, stream);
    detail::launch_attention_backward_queries<D>(p, stream);
  };
  shape.head_dim == 64 ? run.operator()<64>() : run.operator()<128>();
#else
  (void)shape, (void)q, (void)k, (void)v, (void)out, (void)d_out, (void)log_sum_exp, (void)delta, (void)dq, (void)dk, (void)dv,
      (void)stream;
#endif
}

}  // namespace meristem::kernels

namespace {

using namespace meristem::test;
using meristem::kernels::device::host::Grid;

// What is wrong with this version on one problem; empty: nothing. worst: the largest error so far, in units of the same-precision
// reference's.
std::string faults(const AttentionCase& one, double& worst) {
  AttentionProblem problem(one);
  const AttentionResult truth = AttentionReference<double>(problem).result(), same = AttentionReference<float>(problem).result();
  run_forward(problem);
  const Verdict forward = check_forward(problem, truth, same);
  worst = std::max(worst, forward.worst);
  if (!forward.wrong.empty()) return forward.wrong;
#ifndef MERISTEM_FORWARD_ONLY
  run_backward(problem);
  const Verdict backward = check_backward(problem, truth, same);
  worst = std::max(worst, backward.worst);
  return backward.wrong;
#else
  return {};
#endif
}

std::string conflicts() {
  std::string found;
  for (const auto& [line, traffic] : meristem::kernels::device::host::by_line(Grid::current().traffic)) {
    if (traffic.bank_conflicts > 0) found += " " + std::to_string(traffic.bank_conflicts) + " at " + line;
  }
  return found;
}

}  // namespace

int main() {
  double worst = 0;
  auto cases = attention_cases();
  for (const AttentionCase& one : random_attention_cases(6)) cases.push_back(one);
  for (const AttentionCase& one : cases) {
#ifdef MERISTEM_FORWARD_ONLY
    if (one.head_dim != 64) continue;
#endif
    try {
      if (const std::string found = faults(one, worst); !found.empty()) {
        std::printf("wrong: %s: %s\n", one.name.c_str(), found.c_str());
        return 1;
      }
    } catch (const meristem::kernels::device::host::Report& report) {
      static constexpr const char* kKinds[] = {"race", "in flight", "bounds", "misaligned", "divergence", "deadlock"};
      std::printf("%s: %s: %s\n", kKinds[static_cast<int>(report.fault)], one.name.c_str(), report.what());
      return 1;
    } catch (const std::exception& error) {
      std::printf("refused: %s: %s\n", one.name.c_str(), error.what());
      return 1;
    }
  }
  if (const std::string found = conflicts(); !found.empty()) {
    std::printf("bank conflicts:%s\n", found.c_str());
    return 1;
  }
  std::printf("sound\nlargest error: %.2f times the same-precision reference's\n", worst);
  return 0;
}
