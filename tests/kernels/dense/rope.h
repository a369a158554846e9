// Problems of RoPE, with and without QK norm, with a reference in any precision.
#pragma once

#include "kernels/values.h"
#include "meristem_kernels/rope.h"

namespace meristem::test {

struct RopeCase {
  std::string name;
  std::int64_t rows;
  int heads, query_heads, head_dim;
  int rest = 0;       // columns behind the heads
  int gap = 0;        // elements between two rows
  double factor = 1;  // of a standard normal
  std::size_t shift = 0;
};

inline std::vector<RopeCase> rope_cases() {
  return {{"one row, one pair", 1, 1, 1, 2},
          {"nothing", 0, 2, 1, 64},
          {"no heads", 3, 0, 0, 64, 8},
          {"one lane a head", 9, 3, 2, 16, 16},
          {"grouped queries", 11, 6, 4, 64, 128},
          {"128", 9, 3, 2, 128, 128, 64},
          {"off the vector", 5, 4, 3, 10, 10},
          {"one pair more than a lane's", 5, 3, 2, 18, 18},
          {"aligned rows, columns off the vector", 5, 3, 2, 32, 3, 29},
          {"half off the vector of bf16", 5, 4, 2, 24, 24},
          {"lanes without a pair", 9, 5, 3, 96, 96},
          {"more heads than lanes hold", 3, 37, 36, 8, 8},
          {"the widest head", 3, 2, 1, kernels::kRopeMaxHeadDim, 8},
          {"the widest head, off the vector", 2, 2, 1, 510},
          {"an odd stride", 5, 3, 2, 32, 32, 3},
          {"not aligned", 5, 3, 2, 32, 32, 0, 1, 1},
          {"small numbers: eps counts", 7, 3, 2, 64, 64, 0, 1e-3},
          {"more rows than blocks", kernels::kRopePartials * 8 + 3, 2, 1, 8, 8}};
}

template <class X, class Memory>
class RopeProblem {
 public:
  static constexpr float kEps = 1e-5f;
  static constexpr std::int64_t kPositions = 70;
  template <class T>
  using Array = typename Memory::template Array<T>;

  explicit RopeProblem(const RopeCase& given)
      : c_(given),
        columns_(given.heads * given.head_dim + given.rest),
        stride_(columns_ + given.gap),
        half_(given.head_dim / 2),
        size_(as_size(given.rows * stride_) + given.shift),
        x_(size_),
        turned_(size_),
        y_(size_),
        dy_(size_),
        dx_(size_),
        in_place_(size_),
        cos_(as_size(kPositions * half_)),
        sin_(as_size(kPositions * half_)),
        gains_(as_size(4 * half_)),
        d_gains_(as_size(4 * half_)),
        partials_(as_size(kernels::kRopePartials * 4 * half_)),
        positions_(as_size(given.rows)) {
    fill_normal(x_, 1, c_.factor);
    fill_normal(dy_, 2);
    fill_normal(gains_, 3);
    std::copy(x_.begin(), x_.end(), turned_.begin());
    std::copy(dy_.begin(), dy_.end(), in_place_.begin());
    for (std::int64_t i = 0; i < kPositions * half_; ++i) {
      const double angle = static_cast<double>(i / half_) * std::pow(1e4, -static_cast<double>(i % half_) / static_cast<double>(half_));
      cos_[as_size(i)] = static_cast<float>(std::cos(angle));
      sin_[as_size(i)] = static_cast<float>(std::sin(angle));
    }
    for (std::size_t r = 0; r < positions_.size(); ++r) positions_[r] = static_cast<std::int32_t>((r * 31 + 5) % as_size(kPositions));
  }

  void run() {
    const kernels::RopeShape shape{c_.rows, c_.heads, c_.head_dim, kElement<X>, positions_.data(), cos_.data(), sin_.data()};
    const kernels::QkNorm norm{c_.query_heads, kEps, gains_.data(), gains_.data() + c_.head_dim};
    const std::size_t s = c_.shift;
    kernels::rope(shape, turned_.data() + s, stride_, 1, nullptr);
    kernels::qk_norm_rope_forward(shape, norm, columns_, x_.data() + s, stride_, y_.data() + s, stride_, nullptr);
    kernels::qk_norm_rope_backward(shape, norm, columns_, dy_.data() + s, stride_, x_.data() + s, stride_, dx_.data() + s, stride_,
                                   d_gains_.data(), partials_.data(), nullptr);
    Memory::finish();
    first_d_gains_ = values_of(d_gains_);
    kernels::qk_norm_rope_backward(shape, norm, columns_, in_place_.data() + s, stride_, x_.data() + s, stride_, in_place_.data() + s,
                                   stride_, d_gains_.data(), partials_.data(), nullptr);
    Memory::finish();
  }

  std::string faults() {
    run();
    const Result truth = reference<double>(), same = reference<float>();
    const double ulp = std::ldexp(1.0, -22), fp32 = sizeof(X) == 4 ? ulp : 0;
    std::string wrong = worse_than("turned", part(turned_, 0), same.turned, truth.turned, 2, fp32 * c_.factor) +
                        worse_than("y", part(y_, 0), same.y, truth.y, 2, fp32) +
                        worse_than("dx", part(dx_, 0), same.dx, truth.dx, 3, fp32 / c_.factor) +
                        worse_than("d_gains", values_of(d_gains_), same.d_gains, truth.d_gains, 3,
                                   ulp * std::sqrt(static_cast<double>(c_.rows) * (c_.heads + 1)));
    if (first_d_gains_ != values_of(d_gains_) || part(dx_, 0) != part(in_place_, 0)) wrong += "in place, the gradient is another; ";
    if (part(turned_, 1) != part(x_, 1) || part(y_, 1) != part(x_, 1) || part(dx_, 1) != part(dy_, 1))
      wrong += "the columns behind the heads are not as they were; ";
    for (std::size_t i = 0; i < size_; ++i) {
      if (kind_of(i) == 2 && (!untouched(y_, static_cast<std::int64_t>(i), static_cast<std::int64_t>(i) + 1) || turned_[i] != x_[i]))
        return wrong + "written between the rows; ";
    }
    return wrong;
  }
  std::vector<double> bits() const {
    std::vector<double> all = part(dx_, 0);
    for (const auto& more : {part(y_, 0), values_of(d_gains_)}) all.insert(all.end(), more.begin(), more.end());
    return all;
  }

 private:
  struct Result {
    std::vector<double> turned, y, dx, d_gains;
  };

  // 0: of a head, 1: behind the heads, 2: of no row.
  int kind_of(std::size_t i) const {
    if (i < c_.shift) return 2;
    const auto column = static_cast<std::int64_t>(i - c_.shift) % stride_;
    return column < c_.heads * c_.head_dim ? 0 : column < columns_ ? 1 : 2;
  }
  std::vector<double> part(const Array<X>& array, int kind) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < size_; ++i) {
      if (kind_of(i) == kind) values.push_back(value_of(array[i]));
    }
    return values;
  }

  template <class Real>
  Result reference() const {
    Result r;
    std::vector<Real> d_gains(as_size(4 * half_));
    for (std::int64_t row = 0; row < c_.rows; ++row) {
      for (int head = 0; head < c_.heads; ++head) reference_head<Real>(r, d_gains, row, head);
    }
    r.d_gains.assign(d_gains.begin(), d_gains.end());
    return r;
  }
  template <class Real>
  void reference_head(Result& r, std::vector<Real>& d_gains, std::int64_t row, int head) const {
    const std::size_t dim = as_size(c_.head_dim), half = as_size(half_), at = c_.shift + as_size(row * stride_) + as_size(head) * dim;
    const std::size_t angle = as_size(positions_[as_size(row)]) * half, gain = head < c_.query_heads ? 0 : dim;
    std::vector<Real> x(dim), dz(dim), z(dim);
    Real squares = 0, dot = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      x[i] = value_of(x_[at + i]);
      squares += x[i] * x[i];
    }
    const Real rstd = 1 / std::sqrt(squares / static_cast<Real>(dim) + static_cast<Real>(kEps));
    const auto turned = [&](const std::vector<Real>& v, std::size_t i, Real sign) {
      const std::size_t pair = i % half;
      const Real cos = cos_[angle + pair], sin = sign * static_cast<Real>(sin_[angle + pair]);
      return i < half ? v[i] * cos - v[i + half] * sin : v[i] * cos + v[i - half] * sin;
    };
    std::vector<Real> dy(dim);
    for (std::size_t i = 0; i < dim; ++i) {
      z[i] = x[i] * rstd * static_cast<Real>(gains_[gain + i]);
      dy[i] = value_of(dy_[at + i]);
    }
    for (std::size_t i = 0; i < dim; ++i) {
      r.turned.push_back(stored<X>(turned(x, i, 1)));
      r.y.push_back(stored<X>(turned(z, i, 1)));
      dz[i] = turned(dy, i, -1);
      dot += static_cast<Real>(gains_[gain + i]) * dz[i] * x[i];
      d_gains[gain + i] += dz[i] * x[i] * rstd;
    }
    const Real mean = dot * rstd * rstd / static_cast<Real>(dim);
    for (std::size_t i = 0; i < dim; ++i) r.dx.push_back(stored<X>(rstd * (static_cast<Real>(gains_[gain + i]) * dz[i] - x[i] * mean)));
  }

  RopeCase c_;
  int columns_;
  std::int64_t stride_, half_;
  std::size_t size_;
  Array<X> x_, turned_, y_, dy_, dx_, in_place_;
  Array<float> cos_, sin_, gains_, d_gains_, partials_;
  Array<std::int32_t> positions_;
  std::vector<double> first_d_gains_;
};

template <class Memory>
std::string rope_faults(const RopeCase& one) {
  const std::string half = RopeProblem<Bf16, Memory>(one).faults(), narrow = RopeProblem<float, Memory>(one).faults();
  return (half.empty() ? "" : "bf16: " + half) + (narrow.empty() ? "" : "fp32: " + narrow);
}

}  // namespace meristem::test
