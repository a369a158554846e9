// Problems of RMSNorm, alone and behind the residual addition, with a reference in any precision.
#pragma once

#include "kernels/values.h"
#include "meristem_kernels/rms_norm.h"

namespace meristem::test {

struct RmsNormCase {
  std::string name;
  std::int64_t rows;
  int width;
  bool update = false, dh = false;  // with the addition; with a gradient of its result
  double factor = 1;                // of a standard normal
  std::size_t shift = 0;            // elements by which the buffers miss their alignment
};

// Widths on both sides of each share of a row (rows/row.h), off the vector, and of one element.
inline std::vector<RmsNormCase> rms_norm_cases() {
  return {{"one row of one", 1, 1},
          {"nothing", 0, 64},
          {"one row", 1, 64, true, true},
          {"rows below a block", 5, 128, true},
          {"a head's width", 70, 128, false, true},
          {"width off the vector", 9, 33, true, true},
          {"odd rows", 19, 768, true, true},
          {"a share's width", 3, 1024},
          {"one vector more than a share", 3, 1032, true, true},
          {"two warps a row", 9, 2048, true, true},
          {"four warps a row", 5, 2056, true, true},
          {"four warps' share", 2, 4096, false, true},
          {"eight warps a row", 3, 4104, true, true},
          {"the widest", 2, kernels::kRmsNormMaxWidth, true},
          {"wide and off the vector", 2, 4999, true, true},
          {"small numbers: eps counts", 7, 256, true, true, 1e-3},
          {"large numbers", 7, 256, true, false, 1e4},
          {"not aligned", 5, 256, true, true, 1, 1},
          {"more rows than blocks", kernels::kRmsNormPartials * 8 + 5, 16, false, true},
          {"more rows than blocks, eight warps a row", kernels::kRmsNormPartials + 3, 5, true, true}};
}

template <class X, class Memory>
class RmsNormProblem {
 public:
  static constexpr float kEps = 1e-5f;
  template <class T>
  using Array = typename Memory::template Array<T>;

  explicit RmsNormProblem(const RmsNormCase& given)
      : c_(given),
        size_(given.rows * given.width + static_cast<std::int64_t>(given.shift)),
        x_(as_size(size_)),
        update_(as_size(size_)),
        h_(as_size(size_)),
        y_(as_size(size_)),
        dy_(as_size(size_)),
        dh_(as_size(size_)),
        dx_(as_size(size_)),
        gain_(as_size(c_.width)),
        d_gain_(as_size(c_.width)),
        rstd_(as_size(c_.rows)),
        partials_(as_size(kernels::kRmsNormScratch)) {
    fill_normal(x_, 1, c_.factor);
    fill_normal(update_, 2, c_.factor);
    fill_normal(dy_, 3);
    fill_normal(dh_, 4);
    fill_normal(gain_, 5);
  }

  void run() {
    const kernels::RmsNormShape shape{c_.rows, c_.width, kElement<X>};
    const std::size_t s = c_.shift;
    kernels::rms_norm_forward(shape, x_.data() + s, c_.update ? update_.data() + s : nullptr, gain_.data(), kEps,
                              c_.update ? h_.data() + s : nullptr, y_.data() + s, rstd_.data(), nullptr);
    kernels::rms_norm_backward(shape, dy_.data() + s, (c_.update ? h_ : x_).data() + s, gain_.data(), rstd_.data(),
                               c_.dh ? dh_.data() + s : nullptr, dx_.data() + s, d_gain_.data(), partials_.data(), nullptr);
    Memory::finish();
  }

  std::string faults() {
    run();
    const Result truth = reference<double>(), same = reference<float>();
    // What one rounding in fp32 of the terms that make an element costs.
    const double ulp = std::ldexp(1.0, -22), slack = sizeof(X) == 4 ? ulp * c_.factor : 0, root = std::sqrt(static_cast<double>(c_.rows));
    std::string wrong = worse_than("y", part(y_), same.y, truth.y, 2, sizeof(X) == 4 ? ulp : 0);
    if (c_.update) wrong += worse_than("h", part(h_), same.h, truth.h, 2, slack);
    wrong += worse_than("rstd", values_of(rstd_), same.rstd, truth.rstd, 2, ulp / c_.factor);
    wrong += worse_than("dx", part(dx_), same.dx, truth.dx, 3, sizeof(X) == 4 ? ulp / c_.factor : 0);
    wrong += worse_than("d_gain", values_of(d_gain_), same.d_gain, truth.d_gain, 3, ulp * root);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(c_.shift); ++i) {
      if (!untouched(y_, 0, i + 1) || !untouched(dx_, 0, i + 1)) wrong += "written before the first row; ";
    }
    return wrong;
  }
  std::vector<double> bits() const {  // all that a run wrote
    std::vector<double> all = part(y_);
    for (const auto& more : {part(dx_), values_of(d_gain_), values_of(rstd_)}) all.insert(all.end(), more.begin(), more.end());
    return all;
  }

 private:
  struct Result {
    std::vector<double> h, y, rstd, dx, d_gain;
  };

  std::vector<double> part(const Array<X>& array) const {
    std::vector<double> values = values_of(array);
    values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(c_.shift));
    return values;
  }

  template <class Real>
  Result reference() const {
    Result r;
    r.d_gain.resize(as_size(c_.width));
    std::vector<Real> d_gain(as_size(c_.width));
    const auto width = as_size(c_.width);
    for (std::int64_t row = 0; row < c_.rows; ++row) {
      const std::size_t begin = c_.shift + as_size(row) * width;
      std::vector<Real> h(width);
      Real squares = 0, dot = 0;
      for (std::size_t i = 0; i < width; ++i) {
        // Both references go on from the h that is stored, as the kernel does: it is an input of what follows.
        const Real sum = static_cast<Real>(value_of(x_[begin + i])) + (c_.update ? static_cast<Real>(value_of(update_[begin + i])) : 0);
        h[i] = c_.update ? static_cast<Real>(value_of(element_of<X>(static_cast<double>(sum)))) : sum;
        r.h.push_back(sizeof(Real) == 8 ? static_cast<double>(sum) : static_cast<double>(h[i]));
        squares += h[i] * h[i];
      }
      const Real rstd = 1 / std::sqrt(squares / static_cast<Real>(c_.width) + static_cast<Real>(kEps));
      r.rstd.push_back(rstd);
      for (std::size_t i = 0; i < width; ++i) {
        const Real gain = gain_[i], dy = value_of(dy_[begin + i]);
        r.y.push_back(stored<X>(h[i] * rstd * gain));
        dot += gain * dy * h[i];
        d_gain[i] += dy * h[i] * rstd;
      }
      const Real mean = dot * rstd * rstd / static_cast<Real>(c_.width);
      for (std::size_t i = 0; i < width; ++i) {
        const Real dh = c_.dh ? static_cast<Real>(value_of(dh_[begin + i])) : 0;
        r.dx.push_back(stored<X>(dh + rstd * (static_cast<Real>(gain_[i]) * static_cast<Real>(value_of(dy_[begin + i])) - h[i] * mean)));
      }
    }
    r.d_gain.assign(d_gain.begin(), d_gain.end());
    return r;
  }

  RmsNormCase c_;
  std::int64_t size_;
  Array<X> x_, update_, h_, y_, dy_, dh_, dx_;
  Array<float> gain_, d_gain_, rstd_, partials_;
};

template <class Memory>
std::string rms_norm_faults(const RmsNormCase& one) {
  std::string wrong = RmsNormProblem<Bf16, Memory>(one).faults();
  if (!wrong.empty()) wrong = "bf16: " + wrong;
  const std::string narrow = RmsNormProblem<float, Memory>(one).faults();
  return narrow.empty() ? wrong : wrong + "fp32: " + narrow;
}

}  // namespace meristem::test
