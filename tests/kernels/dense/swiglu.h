// Problems of SwiGLU, with a reference in any precision.
#pragma once

#include "kernels/values.h"
#include "meristem_kernels/swiglu.h"

namespace meristem::test {

struct SwigluCase {
  std::string name;
  std::int64_t rows;
  int inner;
  double factor = 1;
  std::size_t shift = 0;  // elements by which the buffers miss their alignment
};

inline std::vector<SwigluCase> swiglu_cases() {
  return {{"one", 1, 1},
          {"nothing", 0, 64},
          {"no columns", 3, 0},
          {"one vector", 1, 8},
          {"odd", 7, 45},
          {"a block's width", 3, 1024},
          {"a vector more", 3, 1032},
          {"one short of a block", 2, 1016},
          {"far from zero", 5, 256, 30},
          {"not aligned", 4, 64, 1, 1},
          {"several odd blocks", 3, 301}};
}

template <class X, class Memory>
class SwigluProblem {
 public:
  explicit SwigluProblem(const SwigluCase& given)
      : c_(given),
        elements_(as_size(given.rows * given.inner)),
        gate_up_(2 * elements_ + given.shift),
        d_gate_up_(gate_up_.size()),
        y_(elements_ + given.shift),
        dy_(y_.size()) {
    fill_normal(gate_up_, 1, c_.factor);
    fill_normal(dy_, 2);
  }

  void run() {
    const kernels::SwigluShape shape{c_.rows, c_.inner, kElement<X>};
    kernels::swiglu_forward(shape, gate_up_.data() + c_.shift, y_.data() + c_.shift, nullptr);
    kernels::swiglu_backward(shape, dy_.data() + c_.shift, gate_up_.data() + c_.shift, d_gate_up_.data() + c_.shift, nullptr);
    Memory::finish();
  }

  std::string faults() {
    run();
    const Result truth = reference<double>(), same = reference<float>();
    const double slack = sizeof(X) == 4 ? std::ldexp(1.0, -22) * c_.factor : 0;
    return worse_than("y", part(y_), same.y, truth.y, 2, slack) + worse_than("d_gate_up", part(d_gate_up_), same.d, truth.d, 3, slack) +
           (untouched(y_, 0, static_cast<std::int64_t>(c_.shift)) ? "" : "written before the first row; ");
  }

 private:
  struct Result {
    std::vector<double> y, d;
  };
  template <class Array>
  std::vector<double> part(const Array& array) const {
    std::vector<double> values = values_of(array);
    values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(c_.shift));
    return values;
  }
  template <class Real>
  Result reference() const {
    Result r;
    r.d.resize(2 * elements_);
    const std::size_t inner = as_size(c_.inner);
    for (std::size_t i = 0; i < elements_; ++i) {
      const std::size_t at = i / inner * 2 * inner + i % inner;
      const Real gate = value_of(gate_up_[c_.shift + at]), up = value_of(gate_up_[c_.shift + at + inner]), dy = value_of(dy_[c_.shift + i]);
      const Real sigmoid = 1 / (1 + std::exp(-gate)), silu = gate * sigmoid;
      r.y.push_back(stored<X>(silu * up));
      r.d[at] = stored<X>(dy * up * (sigmoid + silu * (1 - sigmoid)));
      r.d[at + inner] = stored<X>(dy * silu);
    }
    return r;
  }

  SwigluCase c_;
  std::size_t elements_;
  typename Memory::template Array<X> gate_up_, d_gate_up_, y_, dy_;
};

template <class Memory>
std::string swiglu_faults(const SwigluCase& one) {
  const std::string half = SwigluProblem<Bf16, Memory>(one).faults(), narrow = SwigluProblem<float, Memory>(one).faults();
  return (half.empty() ? "" : "bf16: " + half) + (narrow.empty() ? "" : "fp32: " + narrow);
}

}  // namespace meristem::test
