// Attention over depth as the formulas have it: in fp64 without rounding (the truth), and in fp32 with results in bf16, whose distance from
// the truth is the measure for the kernel's; and the comparison with both.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/depth_attention/problem.h"

namespace meristem::test {

struct DepthResult {
  std::vector<double> out, log_sum_exp, dq;           // [N, H * D], as the problem places it, [N, H * D]
  std::vector<std::vector<double>> d_keys, d_values;  // M of [N, G * D]
  // Lengths of the terms that are summed: what one rounding in fp32 is measured by where they cancel.
  double dq_terms = 0, dk_terms = 0, dv_terms = 0;
};

template <class Real, class Memory>
class DepthReference {
 public:
  explicit DepthReference(const DepthProblem<Memory>& problem) : p_(problem) {
    const auto size = [&](int columns) { return static_cast<std::size_t>(p_.given.tokens) * static_cast<std::size_t>(columns); };
    result_.out.resize(size(p_.query_columns()));
    result_.dq.resize(size(p_.query_columns()));
    result_.log_sum_exp.resize(size(p_.given.heads));
    result_.d_keys.assign(static_cast<std::size_t>(p_.given.entries), std::vector<double>(size(p_.kv_columns())));
    result_.d_values = result_.d_keys;
    for (int n = 0; n < p_.given.tokens; ++n) {
      for (int h = 0; h < p_.given.heads; ++h) row(n, h);
    }
    for (double* terms : {&result_.dq_terms, &result_.dk_terms, &result_.dv_terms}) *terms = std::sqrt(*terms);
    for (int i = 0; i < p_.given.entries; ++i) {
      finish(result_.d_keys[static_cast<std::size_t>(i)], p_.d_keys_before[static_cast<std::size_t>(i)], p_.adds(i, 0));
      finish(result_.d_values[static_cast<std::size_t>(i)], p_.d_values_before[static_cast<std::size_t>(i)], p_.adds(i, 1));
    }
  }
  const DepthResult& result() const { return result_; }

 private:
  static Real rounded(Real x) { return stored<Bf16>(x); }
  void finish(std::vector<double>& gradient, const DepthMatrix<Memory>& before, bool adds) const {
    for (int n = 0; n < before.rows; ++n) {
      for (int c = 0; c < before.columns; ++c) {
        double& x = gradient[before.at(n, c)];
        x = rounded(static_cast<Real>(adds ? x + static_cast<double>(before.value(n, c)) : x));
      }
    }
  }
  // Head h of a row.
  std::vector<Real> part(const DepthMatrix<Memory>& from, int n, int h) const {
    std::vector<Real> values;
    for (int d = 0; d < p_.given.head_dim; ++d) values.push_back(from.value(n, h * p_.given.head_dim + d));
    return values;
  }
  static Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
    Real sum = 0;
    for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
    return sum;
  }
  static void add(std::vector<Real>& to, Real factor, const std::vector<Real>& x) {
    for (std::size_t d = 0; d < x.size(); ++d) to[d] += factor * x[d];
  }
  double* place(std::vector<double>& of, int n, int h, int heads) const {
    return &of[static_cast<std::size_t>((n * heads + h) * p_.given.head_dim)];
  }

  void row(int n, int h) {
    const int heads = p_.given.heads, g = h / (heads / p_.given.kv_heads);
    const std::size_t entries = static_cast<std::size_t>(p_.given.entries);
    const Real scale = static_cast<Real>(p_.shape().scale);
    const auto q = part(p_.q, n, h);
    std::vector<Real> weights;
    for (std::size_t i = 0; i < entries; ++i) weights.push_back(dot(q, part(p_.keys[i], n, g)) * scale);
    const Real before = p_.before[p_.lse_place(n, h)];
    Real max = p_.given.join ? before : weights[0], sum = 0;
    for (const Real score : weights) max = std::max(max, score);
    std::vector<Real> out(q.size());
    if (p_.given.join) {
      sum = std::exp(before - max);
      add(out, sum, part(p_.out_before, n, h));
    }
    for (std::size_t i = 0; i < entries; ++i) {
      weights[i] = std::exp(weights[i] - max);
      sum += weights[i];
      add(out, weights[i], part(p_.values[i], n, g));
    }
    for (Real& weight : weights) weight /= sum;
    for (std::size_t d = 0; d < out.size(); ++d) place(result_.out, n, h, heads)[d] = out[d] = rounded(out[d] / sum);
    result_.log_sum_exp[p_.lse_place(n, h)] = max + std::log(sum);
    gradients(n, h, g, q, weights, out);
  }

  void gradients(int n, int h, int g, const std::vector<Real>& q, const std::vector<Real>& weights, const std::vector<Real>& out) {
    const auto d_out = part(p_.d_out, n, h);
    const Real delta = dot(d_out, out), scale = static_cast<Real>(p_.shape().scale);
    std::vector<Real> dq(q.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto key = part(p_.keys[i], n, g), value = part(p_.values[i], n, g);
      const Real d_score = weights[i] * (dot(d_out, value) - delta) * scale;
      add(dq, d_score, key);
      double* dk = place(result_.d_keys[i], n, g, p_.given.kv_heads);
      double* dv = place(result_.d_values[i], n, g, p_.given.kv_heads);
      for (std::size_t d = 0; d < q.size(); ++d) {
        dk[d] += static_cast<double>(d_score * q[d]);
        dv[d] += static_cast<double>(weights[i] * d_out[d]);
      }
      const double of_value = static_cast<double>(weights[i] * weights[i] * dot(d_out, d_out));
      const double of_score = of_value * static_cast<double>(dot(value, value) * scale * scale);
      result_.dv_terms += of_value;
      result_.dk_terms += of_score * static_cast<double>(dot(q, q));
      result_.dq_terms += of_score * static_cast<double>(dot(key, key));
    }
    if (p_.given.join) add(dq, 1, part(p_.dq_before, n, h));
    for (std::size_t d = 0; d < q.size(); ++d) place(result_.dq, n, h, p_.given.heads)[d] = rounded(dq[d]);
  }

  const DepthProblem<Memory>& p_;
  DepthResult result_;
};

// The truth, and the reference of the kernel's own precision.
struct DepthReferences {
  DepthResult truth, same;
};
template <class Memory>
DepthReferences references_of(const DepthProblem<Memory>& problem) {
  return {DepthReference<double, Memory>(problem).result(), DepthReference<float, Memory>(problem).result()};
}

template <class Memory>
std::vector<double> values_of(const DepthMatrix<Memory>& matrix) {
  std::vector<double> values;
  for (int r = 0; r < matrix.rows; ++r) {
    for (int c = 0; c < matrix.columns; ++c) values.push_back(matrix.value(r, c));
  }
  return values;
}

template <class Memory>
void check_gaps(Verdict& verdict, const DepthMatrix<Memory>& matrix) {
  for (int r = 0; r < matrix.rows; ++r) {
    for (int c = matrix.columns; c < matrix.stride; ++c) {
      if (matrix.words[matrix.at(r, c)] != 0xFFFF) verdict.wrong = "a neighbour's column was written";
    }
  }
}

inline constexpr double kDepthLastPlace = 0x1p-22;  // two units of fp32's, of a number next to 1

template <class Memory>
Verdict check_forward(const DepthProblem<Memory>& p, const DepthReferences& references) {
  const auto& [truth, same] = references;
  Verdict verdict;
  compare(verdict, "out", distance(values_of(p.out), truth.out), distance(same.out, truth.out), 2);
  double size = 1;
  for (const double x : truth.log_sum_exp) size = std::max(size, std::abs(x));
  compare(verdict, "log_sum_exp", largest_error({p.log_sum_exp.begin(), p.log_sum_exp.end()}, truth.log_sum_exp),
          largest_error(same.log_sum_exp, truth.log_sum_exp) + size * kDepthLastPlace, 2);
  check_gaps(verdict, p.out);
  return verdict;
}

template <class Memory>
Verdict check_backward(const DepthProblem<Memory>& p, const DepthReferences& references) {
  const auto& [truth, same] = references;
  Verdict verdict;
  const auto gradient = [&](const std::string& name, const DepthMatrix<Memory>& found, const std::vector<double>& exact,
                            const std::vector<double>& rounded, double terms) {
    compare(verdict, name, distance(values_of(found), exact), distance(rounded, exact) + terms * kDepthLastPlace, 3);
    check_gaps(verdict, found);
  };
  gradient("dq", p.dq, truth.dq, same.dq, truth.dq_terms);
  for (std::size_t i = 0; i < p.keys.size(); ++i) {
    gradient("dk " + std::to_string(i), p.d_keys[i], truth.d_keys[i], same.d_keys[i], truth.dk_terms);
    gradient("dv " + std::to_string(i), p.d_values[i], truth.d_values[i], same.d_values[i], truth.dv_terms);
  }
  return verdict;
}

}  // namespace meristem::test
