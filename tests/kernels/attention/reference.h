// Attention, forward and backward, as the formulas have it: in fp64 without rounding (the truth), and in fp32 with bf16 where the kernel
// rounds (P, dS and the results), whose distance from the truth is the measure for the kernel's; and the comparison with both.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

struct AttentionResult {
  std::vector<double> out, log_sum_exp, dq, dk, dv;  // [T, H, D], [H, T], then as q, k, v
  // Lengths of the terms that a row sums, [T, heads]: P V; P dO V K and P dO V Q, which dP - delta cancels; P dO. A rounding of P, and one
  // in fp32, is measured by them, the more so where the sum is nearly 0.
  std::vector<double> out_terms, dq_terms, dk_terms, dv_terms;
};

template <class Real, class Memory>
class AttentionReference {
 public:
  explicit AttentionReference(const AttentionProblem<Memory>& problem) : p_(problem), shape_(problem.shape()), dim_(shape_.head_dim) {
    const auto size = [&](int heads) { return static_cast<std::size_t>(shape_.tokens) * static_cast<std::size_t>(heads * dim_); };
    result_.out.resize(size(shape_.heads));
    result_.log_sum_exp.resize(static_cast<std::size_t>(shape_.tokens * shape_.heads));
    result_.dq.resize(size(shape_.heads));
    result_.dk.resize(size(shape_.kv_heads));
    result_.dv.resize(size(shape_.kv_heads));
    for (auto* terms : {&result_.out_terms, &result_.dq_terms}) terms->resize(result_.log_sum_exp.size());
    for (auto* terms : {&result_.dk_terms, &result_.dv_terms}) terms->resize(static_cast<std::size_t>(shape_.tokens * shape_.kv_heads));
    for (int document = 0; document < shape_.documents; ++document) {
      for (int h = 0; h < shape_.heads; ++h)
        head(p_.offsets[static_cast<std::size_t>(document)], p_.offsets[static_cast<std::size_t>(document) + 1], h);
    }
    for (auto* terms : {&result_.out_terms, &result_.dq_terms, &result_.dk_terms, &result_.dv_terms}) {
      for (double& x : *terms) x = std::sqrt(x);
    }
    for (auto* gradient : {&result_.dk, &result_.dv}) {
      for (double& x : *gradient) x = rounded(static_cast<Real>(x));
    }
  }
  const AttentionResult& result() const { return result_; }

 private:
  using Row = std::vector<Real>;

  static Real rounded(Real x) { return stored<Bf16>(x); }
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
  std::size_t row_of(int token, int h, int heads) const { return static_cast<std::size_t>(token * heads + h); }
  std::size_t place(int token, int h, int heads) const { return row_of(token, h, heads) * static_cast<std::size_t>(dim_); }

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
    for (int d = 0; d < dim_; ++d) d_out[static_cast<std::size_t>(d)] = value_of(p_.d_out[p_.at(t, h * dim_ + d, p_.out_columns)]);
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
    const double d_out_size = static_cast<double>(dot(d_out, d_out)), q_size = static_cast<double>(dot(q, q));
    for (int j = first; j <= last; ++j) {
      const double weight = static_cast<double>(p[static_cast<std::size_t>(j - first)]), v_size = static_cast<double>(dot(v(j), v(j)));
      const double score_term = weight * weight * d_out_size * v_size * static_cast<double>(scale * scale);
      const std::size_t row = row_of(t, h, shape_.heads), key = row_of(j, g, shape_.kv_heads);
      result_.out_terms[row] += weight * weight * v_size;
      result_.dq_terms[row] += score_term * static_cast<double>(dot(k(j), k(j)));
      result_.dk_terms[key] += score_term * q_size;
      result_.dv_terms[key] += weight * weight * d_out_size;
    }
    for (std::size_t d = 0; d < q.size(); ++d) result_.dq[place(t, h, shape_.heads) + d] = rounded(dq[d] * scale);
  }

  const AttentionProblem<Memory>& p_;
  kernels::AttentionShape shape_;
  int dim_;
  AttentionResult result_;
};

// The truth, and the reference of the kernel's own precision.
struct AttentionReferences {
  AttentionResult truth, same;
};
template <class Memory>
AttentionReferences references_of(const AttentionProblem<Memory>& problem) {
  return {AttentionReference<double, Memory>(problem).result(), AttentionReference<float, Memory>(problem).result()};
}

// The elements that the kernel wrote, as [rows, heads, D].
template <class Array>
std::vector<double> unpack(const Array& from, int rows, int columns, int first, int count) {
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(count));
  for (int t = 0; t < rows; ++t) {
    for (int c = 0; c < count; ++c) values.push_back(value_of(from[as_size(t) * as_size(columns) + as_size(first + c)]));
  }
  return values;
}

// A tensor of rows: as a whole and row by row, since one key too many in one row of hundreds drowns in the error of the whole.
struct Rows {
  const std::vector<double>&found, &truth, &same, &terms;  // terms: the length of what each row sums (AttentionResult)
  int columns;
  bool cancels;  // sums may be 0 where their terms are not; one rounding of these in fp32 is allowed for
};

// For every row, the measure is the reference's largest error in units of its row's terms.
inline void compare_rows(Verdict& verdict, const std::string& what, const Rows& rows, double allowed) {
  const double fp32 = rows.cancels ? std::ldexp(1.0, -22) : 0;
  const std::vector<double> error = row_distances(rows.found, rows.truth, rows.columns);
  const std::vector<double> reference = row_distances(rows.same, rows.truth, rows.columns);
  compare(verdict, what, norm(error), norm(reference) + norm(rows.terms) * fp32, allowed);
  double unit = 0, worst = 0;
  std::size_t worst_row = 0;
  for (std::size_t row = 0; row < error.size(); ++row) {
    if (rows.terms[row] > 0) unit = std::max(unit, reference[row] / rows.terms[row]);
    const double relative = error[row] == 0 ? 0 : error[row] / rows.terms[row];
    if (std::isnan(worst) || relative <= worst) continue;
    worst = relative;
    worst_row = row;
  }
  compare(verdict, what + ", row " + std::to_string(worst_row), worst, unit + fp32, allowed);
}

// What the forward kernel left in the problem's buffers.
template <class Memory>
Verdict check_forward(const AttentionProblem<Memory>& problem, const AttentionReferences& references) {
  const auto& [truth, same] = references;
  Verdict verdict;
  const int width = problem.given.heads * problem.given.head_dim;
  const std::vector<double> out = unpack(problem.out, problem.tokens, problem.out_columns, 0, width);
  compare_rows(verdict, "out", {out, truth.out, same.out, truth.out_terms, problem.given.head_dim, false}, 2);
  const std::vector<double> log_sum_exp(problem.log_sum_exp.begin(), problem.log_sum_exp.end());
  double size = 1;  // two units in the last place of what is stored
  for (const double x : truth.log_sum_exp) size = std::max(size, std::abs(x));
  const double last_place = size * std::ldexp(1.0, -23);
  compare(verdict, "log_sum_exp", largest_error(log_sum_exp, truth.log_sum_exp),
          largest_error(same.log_sum_exp, truth.log_sum_exp) + last_place, 2);
  for (int t = 0; t < problem.tokens; ++t) {
    for (int c = width; c < problem.out_columns; ++c) {
      if (problem.out[problem.at(t, c, problem.out_columns)] != 0xFFFF) verdict.wrong = "a neighbour's column was written";
    }
  }
  return verdict;
}

// What the backward kernels left there.
template <class Memory>
Verdict check_backward(const AttentionProblem<Memory>& problem, const AttentionReferences& references) {
  const auto& [truth, same] = references;
  Verdict verdict;
  const int dim = problem.given.head_dim;
  const auto check = [&](const char* name, char part, int heads, const std::vector<double>& exact, const std::vector<double>& rounded,
                         const std::vector<double>& terms) {
    const std::vector<double> found = unpack(problem.d_qkv, problem.tokens, problem.columns, problem.first_column(part), heads * dim);
    compare_rows(verdict, name, {found, exact, rounded, terms, dim, part != 'v'}, 3);
  };
  check("dq", 'q', problem.given.heads, truth.dq, same.dq, truth.dq_terms);
  check("dk", 'k', problem.given.kv_heads, truth.dk, same.dk, truth.dk_terms);
  check("dv", 'v', problem.given.kv_heads, truth.dv, same.dv, truth.dv_terms);
  return verdict;
}

}  // namespace meristem::test
