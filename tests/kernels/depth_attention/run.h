// Runs a problem's kernels on whatever is linked, and compares what they made of it with the reference.
#pragma once

#include <string>
#include <vector>

#include "kernels/depth_attention/problem.h"
#include "kernels/depth_attention/reference.h"
#include "kernels/distance.h"

namespace meristem::test {

inline std::vector<kernels::DepthInput> inputs_of(const std::deque<DepthMatrix>& entries) {
  std::vector<kernels::DepthInput> table;
  for (const DepthMatrix& entry : entries) table.push_back(entry.input());
  return table;
}
// side: 0 for keys, 1 for values.
inline std::vector<kernels::DepthEntryGradient> gradients_of(const DepthProblem& p, int side) {
  std::vector<kernels::DepthEntryGradient> table;
  for (const DepthMatrix& one : side == 0 ? p.d_keys : p.d_values) {
    const bool adds = p.adds(static_cast<int>(table.size()), side);
    table.push_back({one.output(), adds ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite});
  }
  return table;
}

inline void run_depth_forward(DepthProblem& p) {
  kernels::device::host::Grid::current().settings.seed = p.given.seed;
  const auto keys = inputs_of(p.keys), values = inputs_of(p.values);
  const auto forward = p.given.join ? kernels::depth_attention_join : kernels::depth_attention_forward;
  forward(p.shape(), p.q.input(), keys.data(), values.data(), p.out.output(), p.lse(), nullptr);
}

// From the output and the log-sum-exp that are there.
inline void run_depth_backward(DepthProblem& p) {
  kernels::device::host::Grid::current().settings.seed = p.given.seed;
  const auto keys = inputs_of(p.keys), values = inputs_of(p.values);
  const auto d_keys = gradients_of(p, 0), d_values = gradients_of(p, 1);
  kernels::depth_attention_backward(p.shape(), p.q.input(), keys.data(), values.data(), p.out.input(), p.d_out.input(), p.lse(),
                                    p.dq.output(), p.given.join ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite,
                                    d_keys.data(), d_values.data(), nullptr);
}

inline void run_depth(DepthProblem& p) {
  run_depth_forward(p);
  run_depth_backward(p);
}

inline std::vector<double> values_of(const DepthMatrix& matrix) {
  std::vector<double> values;
  for (int r = 0; r < matrix.rows; ++r) {
    for (int c = 0; c < matrix.columns; ++c) values.push_back(matrix.value(r, c));
  }
  return values;
}

inline void check_gaps(Verdict& verdict, const DepthMatrix& matrix) {
  for (int r = 0; r < matrix.rows; ++r) {
    for (int c = matrix.columns; c < matrix.stride; ++c) {
      if (matrix.words[matrix.at(r, c)] != 0xFFFF) verdict.wrong = "a neighbour's column was written";
    }
  }
}

inline constexpr double kDepthLastPlace = 0x1p-22;  // two units of fp32's, of a number next to 1

inline void check_depth_forward(Verdict& verdict, const DepthProblem& p, const DepthResult& truth, const DepthResult& same) {
  compare(verdict, "out", distance(values_of(p.out), truth.out), distance(same.out, truth.out), 2);
  double size = 1;
  for (const double x : truth.log_sum_exp) size = std::max(size, std::abs(x));
  compare(verdict, "log_sum_exp", largest_error({p.log_sum_exp.begin(), p.log_sum_exp.end()}, truth.log_sum_exp),
          largest_error(same.log_sum_exp, truth.log_sum_exp) + size * kDepthLastPlace, 2);
  check_gaps(verdict, p.out);
}

inline void check_depth_backward(Verdict& verdict, const DepthProblem& p, const DepthResult& truth, const DepthResult& same) {
  const auto gradient = [&](const std::string& name, const DepthMatrix& found, const std::vector<double>& exact,
                            const std::vector<double>& rounded, double terms) {
    compare(verdict, name, distance(values_of(found), exact), distance(rounded, exact) + terms * kDepthLastPlace, 3);
    check_gaps(verdict, found);
  };
  gradient("dq", p.dq, truth.dq, same.dq, truth.dq_terms);
  for (std::size_t i = 0; i < p.keys.size(); ++i) {
    gradient("dk " + std::to_string(i), p.d_keys[i], truth.d_keys[i], same.d_keys[i], truth.dk_terms);
    gradient("dv " + std::to_string(i), p.d_values[i], truth.d_values[i], same.d_values[i], truth.dv_terms);
  }
}

inline Verdict check_depth(const DepthProblem& p) {
  const DepthResult truth = DepthReference<double>(p).result(), same = DepthReference<float>(p).result();
  Verdict verdict;
  check_depth_forward(verdict, p, truth, same);
  check_depth_backward(verdict, p, truth, same);
  return verdict;
}

// Whether a pass moved each byte between global memory and warps once, in whole 32-byte sectors. For rows without gaps; what was counted
// before is left out by clearing Grid::traffic.
inline std::string check_traffic(const DepthProblem& p, bool backward) {
  std::int64_t sectors = 0;
  for (const auto& [line, traffic] : kernels::device::host::by_line(kernels::device::host::Grid::current().traffic))
    sectors += traffic.sectors;
  const std::int64_t numbers = p.given.tokens * p.given.heads, queries = 2 * numbers * p.given.head_dim;
  const std::int64_t entries = 2 * std::int64_t{p.given.entries} * p.given.tokens * p.kv_columns() * 2;
  // Forward: queries in and out, entries in. Backward: three in, one out; entries in, and as much out.
  const std::int64_t needed = backward ? 4 * queries + 2 * entries : 2 * queries + entries;
  // The log-sum-exp goes out and comes in a number a head: at most a sector each.
  const std::int64_t found = 32 * sectors, most = needed + 32 * numbers;
  if (found >= needed && found <= most) return "";
  return "bytes: " + std::to_string(found) + " moved, " + std::to_string(needed) + " to " + std::to_string(most) + " needed";
}

}  // namespace meristem::test
