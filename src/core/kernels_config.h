// `kernels:` of a run's YAML, and the one list of operators that have several paths: who needs all of them goes through it. Here and not in
// config/, so that ops/ can read it without knowing runs.
#pragma once

#include <array>
#include <string>

namespace meristem {

// One T for each operator.
template <class T>
struct PerOperator {
  T attention, cross_entropy, adamw, rms_norm, rope, swiglu, depth_attention, experts, linear;
};

template <class T>
struct Operator {
  const char* key;      // in `kernels:`, in the log, in kernels/proven.json
  const char* meaning;  // of its key, for the reference page
  T PerOperator<T>::*of;
  bool has_library;   // LibTorch has an operator, or a composition of them that is faster than the reference
  bool has_own_cpu;   // ops/cpu holds a kernel of our own
  bool has_own_cuda;  // kernels/ does
};

template <class T>
inline constexpr std::array<Operator<T>, sizeof(PerOperator<char>)> kOperators{{
    {"attention", "Path of attention", &PerOperator<T>::attention, true, true, true},
    {"cross_entropy", "Path of the head and loss", &PerOperator<T>::cross_entropy, true, true, true},
    {"adamw", "Path of the update", &PerOperator<T>::adamw, true, true, true},
    {"rms_norm", "Path of RMSNorm", &PerOperator<T>::rms_norm, false, true, true},
    {"rope", "Path of RoPE", &PerOperator<T>::rope, false, true, true},
    {"swiglu", "Path of SwiGLU", &PerOperator<T>::swiglu, false, true, true},
    {"depth_attention", "Path of attention over depth", &PerOperator<T>::depth_attention, false, true, true},
    {"experts", "Path of the experts' products; reference: every expert on every token", &PerOperator<T>::experts, true, true, true},
    {"linear", "Path of matrix products, the head's included, and of the embedding's gradient; on a GPU always LibTorch's",
     &PerOperator<T>::linear, true, true, false},
}};
static_assert(kOperators<char>.back().of != nullptr, "an operator is missing in the list");

// The path of each operator: reference | library | fused | auto (ops/paths.h).
struct KernelsConfig : PerOperator<std::string> {
  KernelsConfig() { set_all("auto"); }
  void set_all(const std::string& path) {
    for (const auto& op : kOperators<std::string>) this->*op.of = path;
  }
  std::string graph = "auto";  // off | on | auto: the step as captured CUDA graphs
};

}  // namespace meristem
