// The chunked cross-entropy on the CPU layer.
#pragma once

#include "kernels/dense/cross_entropy.h"
#include "kernels/dense/on_cpu.h"

namespace meristem::test {

// Two launches, the second with the gradient; a row's 16 warps meet once where it has a target.
inline DenseWork cross_entropy_work(const CrossEntropyCase& one, int bytes) {
  std::int64_t with_target = 0;
  for (std::int64_t r = 0; r < one.rows; ++r) with_target += one.ignored && r % 3 == 1 ? 0 : 1;
  return {2 * one.rows, 2 * 16 * with_target, 2 * one.rows * 4 + one.rows * one.vocab * bytes, 2 * 16 * 8};
}

template <class X>
float cross_entropy_loss(float logit, std::int32_t target) {
  kernels::device::host::Array<X> logits(9);
  kernels::device::host::Array<float> loss(1);
  kernels::device::host::Array<std::int32_t> targets(1);
  for (X& x : logits) x = element_of<X>(1);
  logits[3] = element_of<X>(logit);
  targets[0] = target;
  kernels::cross_entropy({1, 9, kElement<X>}, logits.data(), targets.data(), loss.data(), true, nullptr);
  return loss[0];
}

// What cannot be has a loss that stops the step.
template <class X>
std::string cross_entropy_stops() {
  const bool stops = std::isfinite(cross_entropy_loss<X>(1, 8)) && std::isnan(cross_entropy_loss<X>(1, 9)) &&
                     std::isnan(cross_entropy_loss<X>(NAN, 2)) && std::isnan(cross_entropy_loss<X>(INFINITY, 2)) &&
                     std::isinf(cross_entropy_loss<X>(-INFINITY, 3));
  return stops ? "" : "wrong: a loss that cannot be is finite";
}

template <class X>
std::vector<DenseProblem> cross_entropy_problems() {
  std::vector<DenseProblem> problems;
  std::uint32_t seed = 0;
  for (const CrossEntropyCase& one : cross_entropy_cases()) {
    problems.push_back({one.name, [one, seed] {
                          return judged(seed, cross_entropy_work(one, sizeof(X)),
                                        [&] { return CrossEntropyProblem<X, CpuMemory>(one).faults(); });
                        }});
    seed = (seed + 1) % 3;
  }
  problems.push_back({"the same bits in two schedules, in full sectors", [] {
                        const CrossEntropyCase one{"", 3, 5120, 2, 0, true};
                        const std::string wrong = same_in_two_schedules(cross_entropy_work(one, sizeof(X)), [&] {
                          CrossEntropyProblem<X, CpuMemory> problem(one);
                          problem.run();
                          return problem.gradient();
                        });
                        // Two rows with a target: read once without, twice and written once with the gradient; one row without: written
                        // once. Beside it, from each of the two launches: a target for each warp, a loss a row, the target's logit.
                        const std::int64_t bytes = (2 * 4 + 1) * 5120 * static_cast<std::int64_t>(sizeof(X)), single = 2 * (3 * 16 + 3 + 2);
                        return wrong.empty() ? wrong_traffic({bytes / 512 + single, bytes / 32 + single}) : wrong;
                      }});
  problems.push_back({"what cannot be", cross_entropy_stops<X>});
  problems.push_back({"counts that are not allowed", [] {
                        std::string wrong;
                        for (const auto& [rows, vocab] : {std::pair{-1, 8}, {0, 0}}) {
                          wrong += not_refused(
                              [&] { kernels::cross_entropy({rows, vocab, kElement<X>}, nullptr, nullptr, nullptr, false, nullptr); });
                        }
                        return wrong;
                      }});
  return problems;
}

}  // namespace meristem::test
