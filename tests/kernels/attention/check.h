// Compares what the kernels made of a problem with the reference. No test framework: the mutator's program uses it too.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/attention/problem.h"
#include "kernels/attention/reference.h"

namespace meristem::test {

// The elements that the kernel wrote, as [rows, heads, D].
inline std::vector<double> unpack(const DeviceArray<std::uint16_t>& from, int rows, int columns, int first, int count) {
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(count));
  for (int t = 0; t < rows; ++t) {
    for (int c = 0; c < count; ++c) values.push_back(bf16_value(from[AttentionProblem::at(t, first + c, columns)]));
  }
  return values;
}

struct Verdict {
  std::string wrong;  // empty: as it should be
  double worst = 0;   // the largest error in units of the same-precision reference's
};

// reference: the same-precision error, and what a rounding in fp32 may cost.
inline void compare(Verdict& verdict, const std::string& what, double error, double reference, double allowed) {
  verdict.worst = std::max(verdict.worst, reference == 0 ? (error == 0 ? 0 : 1e9) : error / reference);
  if (!(error <= allowed * reference)) {  // written so that a NaN is wrong
    verdict.wrong += what + ": error " + std::to_string(error) + ", same-precision reference " + std::to_string(reference) + "; ";
  }
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
inline Verdict check_forward(const AttentionProblem& problem, const AttentionResult& truth, const AttentionResult& same) {
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
      if (problem.out[AttentionProblem::at(t, c, problem.out_columns)] != 0xFFFF) verdict.wrong = "a neighbour's column was written";
    }
  }
  return verdict;
}

// What the backward kernels left there.
inline Verdict check_backward(const AttentionProblem& problem, const AttentionResult& truth, const AttentionResult& same) {
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
