// The dense kernels' own source on the CPU layer, a part a kernel, those of rows with one element type; here AdamW, the squared norm,
// SwiGLU and cross-entropy.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/dense/adamw.h"
#include "kernels/dense/cross_entropy.h"
#include "kernels/dense/swiglu.h"
#include "kernels/on_cpu.h"

namespace meristem::test {

std::vector<Part> norm_parts();  // norms_on_cpu.cpp

namespace {

// A block for each tile of a range; each element stored once.
Work adamw_work(const AdamwCase& one) {
  std::int64_t blocks = 0, elements = 0;
  for (const std::int64_t count : one.counts) {
    blocks += (count + 2047) / 2048;
    elements += count;
  }
  return row_work(blocks, 0, elements * (one.half ? 14 : 12), 0);
}

// One tile with one buffer that misses its alignment: an access of 16 bytes would be a report.
std::string adamw_misaligned(int shifted) {
  CpuArray<float> p(2052), m(2052), v(2052), g(2052), scalars(4);
  CpuArray<Bf16> half(2052);
  for (auto* array : {&p, &m, &v, &g, &scalars}) std::fill(array->begin(), array->end(), 1.0f);
  const auto shift = [&](int buffer) { return buffer == shifted ? 1 : 0; };
  const kernels::AdamwRange range{0, 0, 0, 2048, 0};
  return judged(0, row_work(1, 0, 2048 * 14, 0), [&] {
    kernels::adamw({p.data() + shift(0), m.data() + shift(1), v.data() + shift(2), g.data() + shift(3), half.data() + 2 * shift(4)}, &range,
                   1, {}, scalars.data() + 2, scalars.data(), scalars.data() + 1, nullptr);
    return "";
  });
}

std::vector<Problem> adamw_problems() {
  std::vector<Problem> problems;
  for (const AdamwCase& one : adamw_cases())
    problems.push_back({one.name, [one] { return judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one); }); }});
  for (const float clip : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    problems.push_back({"a clip factor that is not finite changes nothing", [clip] {
                          return judged(0, row_work(3, 0, 0, 0), [&] { return adamw_faults<CpuMemory>({"", {4096, 5}, 0}, 0, clip); });
                        }});
  }
  for (const std::size_t shift : {0, 16}) {  // two places, so that no modulus but the right ones divides both addresses
    problems.push_back({"whole tiles, in full sectors and 16-byte accesses", [shift] {
                          const AdamwCase one{"", {4096}, 64};
                          const std::string wrong = judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one, shift); });
                          // 4096 elements, 30 bytes each; the copy goes in 8-byte accesses. Each of 16 warps reads four scalars.
                          return wrong.empty() ? wrong_traffic({4096 * 28 / 512 + 4096 * 2 / 256 + 64, 4096 * 30 / 32 + 64}) : wrong;
                        }});
  }
  problems.push_back({"no buffer is aligned", [] {
                        const AdamwCase one{"", {4, 2048, 2052}, 4};
                        return judged(0, adamw_work(one), [&] { return adamw_faults<CpuMemory>(one, 1); });
                      }});
  for (int buffer = 0; buffer < 5; ++buffer) {
    problems.push_back({"one buffer is not aligned", [buffer] { return adamw_misaligned(buffer); }});
  }
  return problems;
}

Work squared_norm_work(std::int64_t count) {
  const std::int64_t wanted = (count + 4095) / 4096,
                     blocks = wanted < 1 ? 1 : std::min<std::int64_t>(wanted, kernels::kSquaredNormPartials);
  return row_work(blocks + 1, 8 * (blocks + 1), 8 * (blocks + 1), 2 * 64);
}

std::vector<Problem> squared_norm_problems() {
  std::vector<Problem> problems;
  for (const std::int64_t count : {0, 1, 3, 4, 1023, 4096, 4097, 50003}) {
    for (const std::uint32_t seed : {0u, 7u}) {
      problems.push_back({std::to_string(count) + " numbers, schedule " + std::to_string(seed), [count, seed] {
                            return judged(seed, squared_norm_work(count) + squared_norm_work(count),
                                          [&] { return squared_norm_faults<CpuMemory>(count); });
                          }});
    }
  }
  problems.push_back({"an infinity", [] {
                        return judged(0, squared_norm_work(20001), [] {
                          return std::isinf(squared_norm_with<CpuMemory>(std::numeric_limits<float>::infinity())) ? "" : "it is lost";
                        });
                      }});
  problems.push_back({"a NaN", [] {
                        return judged(0, squared_norm_work(20001), [] {
                          return std::isnan(squared_norm_with<CpuMemory>(std::numeric_limits<float>::quiet_NaN())) ? "" : "it is lost";
                        });
                      }});
  return problems;
}

// Blocks of 128 threads with one access each, for pieces of rows; forward and backward.
Work swiglu_work(const SwigluCase& one, int bytes) {
  const bool aligned = one.inner * bytes % 16 == 0 && one.shift == 0;
  const int elements = 128 * (aligned ? 16 / bytes : 1);
  const std::int64_t blocks = one.rows * ((one.inner + elements - 1) / elements);
  return row_work(2 * blocks, 0, 3 * one.rows * one.inner * bytes, 0);
}

// Where the exponential ends.
std::string swiglu_far_out() {
  CpuArray<float> gate_up(8), y(4);
  const float gates[] = {-1e4f, -100.0f, 100.0f, 1e4f};
  for (std::size_t i = 0; i < 4; ++i) gate_up[i] = gates[i], gate_up[4 + i] = 1;
  kernels::swiglu_forward({1, 4, kernels::Element::kFloat}, gate_up.data(), y.data(), nullptr);
  return y[0] == 0 && std::abs(y[1]) < 1e-40f && y[2] == 100 && y[3] == 1e4f ? "" : "wrong: far from zero";
}

// One buffer misses its alignment: an access of 16 bytes would be a report.
template <class X>
std::string swiglu_misaligned(int shifted) {
  const SwigluCase one{"", 2, 64, 1, 1};
  CpuArray<X> gate_up(257), d_gate_up(257), y(129), dy(129);
  for (auto* array : {&gate_up, &d_gate_up, &y, &dy}) std::fill(array->begin(), array->end(), X{0});
  const auto at = [&](auto& array, int buffer) { return array.data() + (buffer == shifted ? 1 : 0); };
  const kernels::SwigluShape shape{one.rows, one.inner, kElement<X>};
  const bool forward = shifted < 2, backward = shifted != 1;  // what it is a buffer of
  const SwigluCase aligned{"", 2, 64};
  Work needed = swiglu_work(one, sizeof(X));
  needed.blocks = (swiglu_work(forward ? one : aligned, sizeof(X)).blocks + swiglu_work(backward ? one : aligned, sizeof(X)).blocks) / 2;
  return judged(0, needed, [&] {
    kernels::swiglu_forward(shape, at(gate_up, 0), at(y, 1), nullptr);
    kernels::swiglu_backward(shape, at(dy, 2), at(gate_up, 0), at(d_gate_up, 3), nullptr);
    return "";
  });
}

template <class X>
std::vector<Problem> swiglu_problems() {
  std::vector<Problem> problems;
  for (const SwigluCase& one : swiglu_cases()) {
    problems.push_back(
        {one.name, [one] { return judged(0, swiglu_work(one, sizeof(X)), [&] { return SwigluProblem<X, CpuMemory>(one).faults(); }); }});
  }
  for (int buffer = 0; buffer < 4; ++buffer)
    problems.push_back({"one buffer is not aligned", [buffer] { return swiglu_misaligned<X>(buffer); }});
  problems.push_back({"in full sectors and 16-byte accesses", [] {
                        const SwigluCase one{"", 3, 1024};
                        const std::string wrong =
                            judged(0, swiglu_work(one, sizeof(X)), [&] { return SwigluProblem<X, CpuMemory>(one).faults(); });
                        // Forward reads two numbers and writes one, backward reads three and writes two.
                        const std::int64_t bytes = std::int64_t{3} * 1024 * 8 * static_cast<std::int64_t>(sizeof(X));
                        return wrong.empty() ? wrong_traffic({bytes / 512, bytes / 32}) : wrong;
                      }});
  if constexpr (sizeof(X) == 4) problems.push_back({"far beyond where the exponential ends", swiglu_far_out});
  problems.push_back(
      {"negative counts", [] {
         std::string wrong;
         for (const auto& [rows, inner] : {std::pair{-1, 8}, {1, -8}}) {
           const kernels::SwigluShape shape{rows, inner, kElement<X>};
           wrong += not_refused("swiglu: a negative count", [&] { kernels::swiglu_forward(shape, nullptr, nullptr, nullptr); });
           wrong += not_refused("swiglu: a negative count", [&] { kernels::swiglu_backward(shape, nullptr, nullptr, nullptr, nullptr); });
         }
         return of_kind("refusal", wrong);
       }});
  return problems;
}

// Two launches, the second with the gradient; a row's 16 warps meet once where it has a target.
Work cross_entropy_work(const CrossEntropyCase& one, int bytes) {
  std::int64_t with_target = 0;
  for (std::int64_t r = 0; r < one.rows; ++r) with_target += one.ignored && r % 3 == 1 ? 0 : 1;
  return row_work(2 * one.rows, 2 * 16 * with_target, 2 * one.rows * 4 + one.rows * one.vocab * bytes, 2 * 16 * 8);
}

template <class X>
float cross_entropy_loss(float logit, std::int32_t target) {
  CpuArray<X> logits(9);
  CpuArray<float> loss(1);
  CpuArray<std::int32_t> targets(1);
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
std::vector<Problem> cross_entropy_problems() {
  std::vector<Problem> problems;
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
                          wrong += not_refused("cross_entropy: a count that is not allowed", [&] {
                            kernels::cross_entropy({rows, vocab, kElement<X>}, nullptr, nullptr, nullptr, false, nullptr);
                          });
                        }
                        return of_kind("refusal", wrong);
                      }});
  return problems;
}

}  // namespace

std::vector<Part> parts() {
  std::vector<Part> all{{"adamw", adamw_problems()},
                        {"squared_norm", squared_norm_problems()},
                        {"swiglu bf16", swiglu_problems<Bf16>()},
                        {"cross_entropy bf16", cross_entropy_problems<Bf16>()},
                        {"swiglu fp32", swiglu_problems<float>()},
                        {"cross_entropy fp32", cross_entropy_problems<float>()}};
  for (Part& part : norm_parts()) all.push_back(std::move(part));
  return all;
}

}  // namespace meristem::test
