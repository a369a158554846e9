// Runs a problem's kernels on the CPU layer, and compares what they made of it with what a loop over the choices makes.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels/distance.h"
#include "kernels/experts/problem.h"

namespace meristem::test {

inline void run_sort(ExpertProblem& p) {
  kernels::device::host::Grid::current().settings.seed = p.given.seed;
  kernels::expert_sort(p.shape(), p.chosen.data(), p.scratch.data(), p.place.data(), p.ends.data(), nullptr);
}

// From the places that are there.
inline void run_rows(ExpertProblem& p) {
  kernels::device::host::Grid::current().settings.seed = p.given.seed;
  kernels::expert_gather(p.shape(), p.x.data(), p.place.data(), p.gathered.data(), nullptr);
  kernels::expert_combine(p.shape(), p.rows.data(), p.place.data(), p.given.weighted ? p.weights.data() : nullptr, p.y.data(), nullptr);
  kernels::expert_combine_backward(p.shape(), p.dy.data(), p.rows.data(), p.place.data(), p.weights.data(), p.d_rows.data(),
                                   p.d_weights.data(), nullptr);
}

inline void run_experts(ExpertProblem& p) {
  run_sort(p);
  run_rows(p);
}

// The choice that stands at each row.
inline std::vector<std::size_t> sorted_choices(const ExpertProblem& p) {
  std::vector<std::size_t> order(p.chosen.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p.chosen[a] < p.chosen[b]; });
  return order;
}

inline void sort_on_host(ExpertProblem& p) {
  const auto order = sorted_choices(p);
  for (std::size_t row = 0; row < order.size(); ++row) p.place[order[row]] = static_cast<std::int32_t>(row);
}

// Places and ends by sorting; empty: as they should be.
inline std::string check_sorted(const ExpertProblem& p) {
  const auto order = sorted_choices(p);
  for (std::size_t row = 0; row < order.size(); ++row) {
    if (p.place[order[row]] == static_cast<std::int32_t>(row)) continue;
    return "choice " + std::to_string(order[row]) + " is at row " + std::to_string(p.place[order[row]]) + ", not " + std::to_string(row);
  }
  for (int e = 0; e < p.given.experts; ++e) {
    const auto end = std::count_if(p.chosen.begin(), p.chosen.end(), [&](std::int64_t chosen) { return chosen <= e; });
    if (p.ends[ExpertProblem::size(e)] == end) continue;
    return "expert " + std::to_string(e) + " ends at " + std::to_string(p.ends[ExpertProblem::size(e)]) + ", not " + std::to_string(end);
  }
  return "";
}

struct ExpertResult {
  std::vector<double> y, d_rows, d_weights;
  double longest = 0;  // sum of |terms| of a weight's gradient at most
};

// In fp64 without rounding, or in fp32 with rows rounded to bf16.
template <class Real>
ExpertResult expert_reference(const ExpertProblem& p) {
  const auto rounded = [](Real x) { return sizeof(Real) == 8 ? static_cast<double>(x) : bf16_value(bf16_bits(static_cast<double>(x))); };
  const std::size_t width = ExpertProblem::size(p.given.width), k = ExpertProblem::size(p.given.choices);
  ExpertResult result{{}, std::vector<double>(p.d_rows.size()), {}, 0};
  for (std::size_t n = 0; n < ExpertProblem::size(p.given.tokens); ++n) {
    std::vector<Real> y(width);
    for (std::size_t j = 0; j < k; ++j) {
      const std::size_t row = static_cast<std::size_t>(p.place[n * k + j]) * width;
      const Real weight = p.weights[n * k + j];
      Real dot = 0;
      double length = 0;
      for (std::size_t d = 0; d < width; ++d) {
        const Real dy = bf16_value(p.dy[n * width + d]), value = bf16_value(p.rows[row + d]);
        y[d] += (p.given.weighted ? weight : 1) * value;
        dot += dy * value;
        length += std::abs(static_cast<double>(dy * value));
        result.d_rows[row + d] = rounded(weight * dy);
      }
      result.d_weights.push_back(static_cast<double>(dot));
      result.longest = std::max(result.longest, length);
    }
    for (const Real value : y) result.y.push_back(rounded(value));
  }
  return result;
}

inline std::vector<double> doubles_of(const DeviceArray<std::uint16_t>& words) {
  std::vector<double> values;
  for (const std::uint16_t word : words) values.push_back(bf16_value(word));
  return values;
}

// What the kernels of rows made of the places that are there.
inline Verdict check_rows(const ExpertProblem& p) {
  Verdict verdict;
  const std::size_t width = ExpertProblem::size(p.given.width);
  for (std::size_t i = 0; i < p.place.size(); ++i) {
    const std::uint16_t* from = p.x.data() + i / ExpertProblem::size(p.given.choices) * width;
    if (!std::equal(from, from + width, p.gathered.data() + static_cast<std::size_t>(p.place[i]) * width)) {
      verdict.wrong = "the row of choice " + std::to_string(i) + " is not its token's";
      return verdict;
    }
  }
  const ExpertResult truth = expert_reference<double>(p), same = expert_reference<float>(p);
  compare(verdict, "y", distance(doubles_of(p.y), truth.y), distance(same.y, truth.y), 2);
  compare(verdict, "d_rows", distance(doubles_of(p.d_rows), truth.d_rows), distance(same.d_rows, truth.d_rows), 3);
  compare(verdict, "d_weights", largest_error({p.d_weights.begin(), p.d_weights.end()}, truth.d_weights),
          largest_error(same.d_weights, truth.d_weights) + truth.longest * std::ldexp(1.0, -23), 3);
  return verdict;
}

inline Verdict check_experts(const ExpertProblem& p) {
  const std::string wrong = check_sorted(p);
  return wrong.empty() ? check_rows(p) : Verdict{wrong, 0};
}

// Whether the three kernels of the sorting moved each number that they need once, in whole 32-byte sectors, after Grid::traffic was
// cleared. For experts that divide by 32, at most 128 (each thread of the last scan has one of them then), and choices that fill their
// tiles.
inline std::string check_sort_traffic(const ExpertProblem& p) {
  std::int64_t sectors = 0;
  for (const auto& [line, of_line] : kernels::device::host::by_line(kernels::device::host::Grid::current().traffic))
    sectors += of_line.sectors;
  const std::int64_t tiles = p.rows_count / 512, blocks = (tiles + 3) / 4;
  // Of each choice: its expert, counted and placed, and its place. Of each tile: counts written, read twice, written and read. Sums
  // written, read twice by each block; ends.
  const std::int64_t needed = (8 + 8 + 4) * std::int64_t{p.rows_count} + 4 * p.given.experts * (5 * tiles + 1 + 2 * blocks + 1);
  return 32 * sectors == needed ? "" : "bytes: " + std::to_string(32 * sectors) + " moved, " + std::to_string(needed) + " needed";
}

// Whether the three kernels of rows moved each row between global memory and warps once, in whole 32-byte sectors, after Grid::traffic was
// cleared. For widths of 256 with up to four choices: each lane then has one chunk.
inline std::string check_row_traffic(ExpertProblem& p) {
  auto& traffic = kernels::device::host::Grid::current().traffic;
  traffic.clear();
  kernels::expert_gather(p.shape(), p.x.data(), p.place.data(), p.gathered.data(), nullptr);
  kernels::expert_combine(p.shape(), p.rows.data(), p.place.data(), p.weights.data(), p.y.data(), nullptr);
  kernels::expert_combine_backward(p.shape(), p.dy.data(), p.rows.data(), p.place.data(), p.weights.data(), p.d_rows.data(),
                                   p.d_weights.data(), nullptr);
  std::int64_t sectors = 0;
  for (const auto& [line, of_line] : kernels::device::host::by_line(traffic)) sectors += of_line.sectors;
  // Tokens: x, y, dy. Rows: written, read; read and written. Places, weights and their gradients: at most a sector a number.
  const std::int64_t row = 2 * p.given.width, needed = row * (3 * p.given.tokens + 4 * p.rows_count), most = needed + 32 * 6 * p.rows_count;
  if (32 * sectors >= needed && 32 * sectors <= most) return "";
  return "bytes: " + std::to_string(32 * sectors) + " moved, " + std::to_string(needed) + " to " + std::to_string(most) + " needed";
}

}  // namespace meristem::test
