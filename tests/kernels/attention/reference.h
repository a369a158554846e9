// Attention, forward and backward, as the formulas have it: in fp64 without rounding (the truth), and in fp32 with bf16 where the kernel
// rounds (P, dS and the results), whose distance from the truth is the measure for the kernel's.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

struct AttentionResult {
  std::vector<double> out, log_sum_exp, dq, dk, dv;  // [T, H, D], [H, T], then as q, k, v
  // Lengths of the terms |P dO V K| and |P dO V Q| that dP - delta cancels: what one rounding in fp32 is measured by where dq, dk are 0.
  double dq_terms = 0, dk_terms = 0;
};

template <class Real>
class AttentionReference {
 public:
  explicit AttentionReference(const AttentionProblem& problem) : p_(problem), shape_(problem.shape()), dim_(shape_.head_dim) {
    const auto size = [&](int heads) { return static_cast<std::size_t>(shape_.tokens) * static_cast<std::size_t>(heads * dim_); };
    result_.out.resize(size(shape_.heads));
    result_.log_sum_exp.resize(static_cast<std::size_t>(shape_.tokens * shape_.heads));
    result_.dq.resize(size(shape_.heads));
    result_.dk.resize(size(shape_.kv_heads));
    result_.dv.resize(size(shape_.kv_heads));
    for (int document = 0; document < shape_.documents; ++document) {
      for (int h = 0; h < shape_.heads; ++h)
        head(p_.offsets[static_cast<std::size_t>(document)], p_.offsets[static_cast<std::size_t>(document) + 1], h);
    }
    result_.dq_terms = std::sqrt(result_.dq_terms);
    result_.dk_terms = std::sqrt(result_.dk_terms);
    for (auto* gradient : {&result_.dk, &result_.dv}) {
      for (double& x : *gradient) x = rounded(static_cast<Real>(x));
    }
  }
  const AttentionResult& result() const { return result_; }

 private:
  using Row = std::vector<Real>;

  static Real rounded(Real x) {
    if constexpr (sizeof(Real) == 8) {
      return x;
    } else {
      return bf16_value(bf16_bits(x));
    }
  }
  Row row(char part, int token, int h) const {
    Row values(static_cast<std::size_t>(dim_));
    for (int d = 0; d < dim_; ++d) values[static_cast<std::size_t>(d)] = p_.value(part, token, h, d);
    return values;
  }
  static Real dot(const Row& a, const Row& b) {
    Real sum = 0;
    for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
    return sum;
  }
  std::size_t place(int token, int h, int heads) const { return static_cast<std::size_t>((token * heads + h) * dim_); }

  void head(int begin, int end, int h) {
    const int group = shape_.heads / shape_.kv_heads, g = h / group;
    std::vector<Row> k, v;
    for (int t = begin; t < end; ++t) {
      k.push_back(row('k', t, g));
      v.push_back(row('v', t, g));
    }
    for (int t = begin; t < end; ++t) {
      const int first = shape_.window_left < 0 ? begin : std::max(begin, t - shape_.window_left);
      const int last = shape_.window_right < 0 ? end - 1 : std::min(end - 1, t + shape_.window_right);
      query(t, h, g, begin, first, last, k, v);
    }
  }

  void query(int t, int h, int g, int begin, int first, int last, const std::vector<Row>& k, const std::vector<Row>& v) {
    const auto of = [&](int key) { return static_cast<std::size_t>(key - begin); };
    const Row q = row('q', t, h);
    const Real scale = static_cast<Real>(shape_.scale);
    Row p(static_cast<std::size_t>(last - first + 1));
    for (int j = first; j <= last; ++j) p[static_cast<std::size_t>(j - first)] = dot(q, k[of(j)]) * scale;
    const Real max = *std::max_element(p.begin(), p.end());
    Real sum = 0;
    Row out(static_cast<std::size_t>(dim_));
    for (int j = first; j <= last; ++j) {
      Real& weight = p[static_cast<std::size_t>(j - first)];
      weight = std::exp(weight - max);
      sum += weight;
      for (std::size_t d = 0; d < out.size(); ++d) out[d] += rounded(weight) * v[of(j)][d];
    }
    for (std::size_t d = 0; d < out.size(); ++d) {
      out[d] = rounded(out[d] / sum);
      result_.out[place(t, h, shape_.heads) + d] = out[d];
    }
    result_.log_sum_exp[static_cast<std::size_t>(h * shape_.tokens + t)] = max + std::log(sum);
    for (Real& weight : p) weight /= sum;
    gradients(
        t, h, g, first, last, q, p, out, [&](int j) -> const Row& { return k[of(j)]; }, [&](int j) -> const Row& { return v[of(j)]; });
  }

  template <class Keys, class Values>
  void gradients(int t, int h, int g, int first, int last, const Row& q, const Row& p, const Row& out, Keys k, Values v) {
    Row d_out(static_cast<std::size_t>(dim_)), dq(static_cast<std::size_t>(dim_));
    for (int d = 0; d < dim_; ++d)
      d_out[static_cast<std::size_t>(d)] = bf16_value(p_.d_out[AttentionProblem::at(t, h * dim_ + d, p_.out_columns)]);
    const Real delta = dot(d_out, out), scale = static_cast<Real>(shape_.scale);
    for (int j = first; j <= last; ++j) {
      const Real weight = p[static_cast<std::size_t>(j - first)], ds = rounded(weight * (dot(d_out, v(j)) - delta));
      double* dk = &result_.dk[place(j, g, shape_.kv_heads)];
      double* dv = &result_.dv[place(j, g, shape_.kv_heads)];
      for (std::size_t d = 0; d < q.size(); ++d) {
        dq[d] += ds * k(j)[d];
        dk[d] += static_cast<double>(ds * q[d] * scale);
        dv[d] += static_cast<double>(rounded(weight) * d_out[d]);
      }
    }
    for (int j = first; j <= last; ++j) {
      const double term = static_cast<double>(p[static_cast<std::size_t>(j - first)] * p[static_cast<std::size_t>(j - first)] * scale *
                                              scale * dot(d_out, d_out) * dot(v(j), v(j)));
      result_.dq_terms += term * static_cast<double>(dot(k(j), k(j)));
      result_.dk_terms += term * static_cast<double>(dot(q, q));
    }
    for (std::size_t d = 0; d < q.size(); ++d) result_.dq[place(t, h, shape_.heads) + d] = rounded(dq[d] * scale);
  }

  const AttentionProblem& p_;
  kernels::AttentionShape shape_;
  int dim_;
  AttentionResult result_;
};

inline double distance(const std::vector<double>& a, const std::vector<double>& truth) {
  double sum = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) sum += (a[i] - truth[i]) * (a[i] - truth[i]);
  return std::sqrt(sum);
}

inline double largest_error(const std::vector<double>& a, const std::vector<double>& truth) {
  double largest = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) largest = std::max(largest, std::abs(a[i] - truth[i]));
  return largest;
}

}  // namespace meristem::test
