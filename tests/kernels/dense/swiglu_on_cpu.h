// SwiGLU on the CPU layer.
#pragma once

#include "kernels/dense/on_cpu.h"
#include "kernels/dense/swiglu.h"

namespace meristem::test {

// Blocks of 128 threads with one access each, for pieces of rows; forward and backward.
inline DenseWork swiglu_work(const SwigluCase& one, int bytes) {
  const bool aligned = one.inner * bytes % 16 == 0 && one.shift == 0;
  const int elements = 128 * (aligned ? 16 / bytes : 1);
  const std::int64_t blocks = one.rows * ((one.inner + elements - 1) / elements);
  return {2 * blocks, 0, 3 * one.rows * one.inner * bytes, 0};
}

// Where the exponential ends.
inline std::string swiglu_far_out() {
  kernels::device::host::Array<float> gate_up(8), y(4);
  const float gates[] = {-1e4f, -100.0f, 100.0f, 1e4f};
  for (std::size_t i = 0; i < 4; ++i) gate_up[i] = gates[i], gate_up[4 + i] = 1;
  kernels::swiglu_forward({1, 4, kernels::Element::kFloat}, gate_up.data(), y.data(), nullptr);
  return y[0] == 0 && std::abs(y[1]) < 1e-40f && y[2] == 100 && y[3] == 1e4f ? "" : "wrong: far from zero";
}

// One buffer misses its alignment: an access of 16 bytes would be a report.
template <class X>
std::string swiglu_misaligned(int shifted) {
  const SwigluCase one{"", 2, 64, 1, 1};
  kernels::device::host::Array<X> gate_up(257), d_gate_up(257), y(129), dy(129);
  for (auto* array : {&gate_up, &d_gate_up, &y, &dy}) std::fill(array->begin(), array->end(), X{0});
  const auto at = [&](auto& array, int buffer) { return array.data() + (buffer == shifted ? 1 : 0); };
  const kernels::SwigluShape shape{one.rows, one.inner, kElement<X>};
  const bool forward = shifted < 2, backward = shifted != 1;  // what it is a buffer of
  const SwigluCase aligned{"", 2, 64};
  DenseWork needed;
  needed.blocks = (swiglu_work(forward ? one : aligned, sizeof(X)).blocks + swiglu_work(backward ? one : aligned, sizeof(X)).blocks) / 2;
  needed.stored = swiglu_work(one, sizeof(X)).stored;
  return judged(0, needed, [&] {
    kernels::swiglu_forward(shape, at(gate_up, 0), at(y, 1), nullptr);
    kernels::swiglu_backward(shape, at(dy, 2), at(gate_up, 0), at(d_gate_up, 3), nullptr);
    return "";
  });
}

template <class X>
std::vector<DenseProblem> swiglu_problems() {
  std::vector<DenseProblem> problems;
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
  problems.push_back({"negative counts", [] {
                        std::string wrong;
                        for (const auto& [rows, inner] : {std::pair{-1, 8}, {1, -8}}) {
                          const kernels::SwigluShape shape{rows, inner, kElement<X>};
                          wrong += not_refused([&] { kernels::swiglu_forward(shape, nullptr, nullptr, nullptr); });
                          wrong += not_refused([&] { kernels::swiglu_backward(shape, nullptr, nullptr, nullptr, nullptr); });
                        }
                        return wrong;
                      }});
  return problems;
}

}  // namespace meristem::test
