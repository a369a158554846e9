// One problem of expert dispatch: random choices and rows, and what the kernels made of them, against what a loop over the choices makes;
// and the grid of problems that every version of the kernels must solve.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/values.h"
#include "meristem_kernels/experts.h"

namespace meristem::test {

struct ExpertCase {
  std::string name;
  int tokens, choices, experts, width;
  bool crowded = false;    // all tokens choose the same experts, the last ones; the others receive none
  bool weighted = true;    // else expert_combine is given no weights
  std::uint32_t seed = 0;  // of the schedule
};

template <class Memory>
class ExpertProblem {
 public:
  template <class T>
  using Array = typename Memory::template Array<T>;

  explicit ExpertProblem(const ExpertCase& parameters)
      : given(parameters),
        rows_count(given.tokens * given.choices),
        chosen(size(rows_count)),
        scratch(static_cast<std::size_t>(kernels::expert_sort_scratch(shape()))),
        place(size(rows_count)),
        ends(size(given.experts)),
        x(size(given.tokens * given.width)),
        gathered(size(rows_count * given.width)),
        rows(size(rows_count * given.width)),
        d_rows(size(rows_count * given.width)),
        y(size(given.tokens * given.width)),
        dy(size(given.tokens * given.width)),
        weights(size(rows_count)),
        d_weights(size(rows_count)) {
    std::mt19937 random(41);
    std::normal_distribution<float> normal;
    std::vector<std::int64_t> experts(size(given.experts));
    std::iota(experts.begin(), experts.end(), 0);
    for (int n = 0; n < given.tokens; ++n) {
      if (!given.crowded) std::shuffle(experts.begin(), experts.end(), random);
      for (int j = 0; j < given.choices; ++j) chosen[size(n * given.choices + j)] = experts[size(given.experts - 1 - j)];
    }
    for (auto* words : {&x, &rows, &dy}) {
      for (Bf16& word : *words) word = element_of<Bf16>(normal(random));
    }
    for (float& weight : weights) weight = normal(random);
  }

  void run_sort() {
    kernels::expert_sort(shape(), chosen.data(), scratch.data(), place.data(), ends.data(), nullptr);
    Memory::finish();
  }
  // From the places that are there.
  void run_rows() {
    kernels::expert_gather(shape(), x.data(), place.data(), gathered.data(), nullptr);
    kernels::expert_combine(shape(), rows.data(), place.data(), given.weighted ? weights.data() : nullptr, y.data(), nullptr);
    kernels::expert_combine_backward(shape(), dy.data(), rows.data(), place.data(), weights.data(), d_rows.data(), d_weights.data(),
                                     nullptr);
    Memory::finish();
  }
  void run() {
    run_sort();
    run_rows();
  }

  kernels::ExpertShape shape() const { return {given.tokens, given.choices, given.experts, given.width}; }
  static std::size_t size(int count) { return static_cast<std::size_t>(count); }

  ExpertCase given;
  int rows_count;
  Array<std::int64_t> chosen;
  Array<std::int32_t> scratch, place, ends;
  // rows: what the experts are to have made of `gathered`; here just numbers.
  Array<std::uint16_t> x, gathered, rows, d_rows, y, dy;
  Array<float> weights, d_weights;
};

inline std::vector<ExpertCase> expert_cases() {
  return {
      // name, N, k, E, D, crowded, weighted, schedule
      {"one token, one expert", 1, 1, 1, 8},
      {"no token", 0, 2, 5, 8},
      {"one choice", 37, 1, 4, 40, false, true, 1},
      {"every expert", 9, 6, 6, 16},
      {"every expert of one token", 1, 33, 33, 8},
      {"all tokens at one expert", 70, 1, 8, 24, true},
      {"all tokens at three experts", 50, 3, 200, 24, true, true, 2},
      {"five choices", 23, 5, 9, 264, false, true, 3},
      {"more experts than choices", 3, 2, 1000, 8},
      {"more choices than a tile", 301, 2, 7, 8, false, true, 1},
      {"more tiles than a block has", 1200, 2, 3, 8, false, false, 2},
      {"more tiles than the scan has shares", 16700, 2, 2, 8, true, true},
      {"a tile to the last choice", 256, 2, 33, 8},
      {"one expert, four tiles, the last not full", 1600, 1, 1, 8},
      {"the most experts", 20, 2, 4096, 8},
      {"sums without weights", 11, 4, 5, 72, false, false},
  };
}

// Shapes that nobody chose.
inline std::vector<ExpertCase> random_expert_cases(int count) {
  std::vector<ExpertCase> cases;
  std::mt19937 random(43);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    ExpertCase next;
    next.name = "random " + std::to_string(i);
    next.experts = 1 + below(70);
    next.choices = 1 + below(std::min(next.experts, 9));
    next.tokens = 1 + below(150);
    next.width = 8 * (1 + below(20));
    next.crowded = below(4) == 0;
    next.weighted = below(3) != 0;
    next.seed = random() % 5;
    cases.push_back(next);
  }
  return cases;
}

// The choice that stands at each row.
template <class Memory>
std::vector<std::size_t> sorted_choices(const ExpertProblem<Memory>& p) {
  std::vector<std::size_t> order(p.chosen.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p.chosen[a] < p.chosen[b]; });
  return order;
}

template <class Memory>
void sort_on_host(ExpertProblem<Memory>& p) {
  const auto order = sorted_choices(p);
  for (std::size_t row = 0; row < order.size(); ++row) p.place[order[row]] = static_cast<std::int32_t>(row);
}

// Places and ends by sorting; empty: as they should be.
template <class Memory>
std::string check_sorted(const ExpertProblem<Memory>& p) {
  const auto order = sorted_choices(p);
  for (std::size_t row = 0; row < order.size(); ++row) {
    if (p.place[order[row]] == static_cast<std::int32_t>(row)) continue;
    return "choice " + std::to_string(order[row]) + " is at row " + std::to_string(p.place[order[row]]) + ", not " + std::to_string(row);
  }
  for (int e = 0; e < p.given.experts; ++e) {
    const auto end = std::count_if(p.chosen.begin(), p.chosen.end(), [&](std::int64_t chosen) { return chosen <= e; });
    if (p.ends[as_size(e)] == end) continue;
    return "expert " + std::to_string(e) + " ends at " + std::to_string(p.ends[as_size(e)]) + ", not " + std::to_string(end);
  }
  return "";
}

struct ExpertResult {
  std::vector<double> y, d_rows, d_weights;
  double longest = 0;  // sum of |terms| of a weight's gradient at most
};

// In fp64 without rounding, or in fp32 with rows rounded to bf16.
template <class Real, class Memory>
ExpertResult expert_reference(const ExpertProblem<Memory>& p) {
  const auto rounded = [](Real x) { return static_cast<double>(stored<Bf16>(x)); };
  const std::size_t width = as_size(p.given.width), k = as_size(p.given.choices);
  ExpertResult result{{}, std::vector<double>(p.d_rows.size()), {}, 0};
  for (std::size_t n = 0; n < as_size(p.given.tokens); ++n) {
    std::vector<Real> y(width);
    for (std::size_t j = 0; j < k; ++j) {
      const std::size_t row = static_cast<std::size_t>(p.place[n * k + j]) * width;
      const Real weight = p.weights[n * k + j];
      Real dot = 0;
      double length = 0;
      for (std::size_t d = 0; d < width; ++d) {
        const Real dy = value_of(p.dy[n * width + d]), value = value_of(p.rows[row + d]);
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

// What the kernels of rows made of the places that are there.
template <class Memory>
Verdict check_rows(const ExpertProblem<Memory>& p) {
  Verdict verdict;
  const std::size_t width = as_size(p.given.width);
  for (std::size_t i = 0; i < p.place.size(); ++i) {
    const std::uint16_t* from = p.x.data() + i / as_size(p.given.choices) * width;
    if (!std::equal(from, from + width, p.gathered.data() + static_cast<std::size_t>(p.place[i]) * width)) {
      verdict.wrong = "the row of choice " + std::to_string(i) + " is not its token's";
      return verdict;
    }
  }
  const ExpertResult truth = expert_reference<double>(p), same = expert_reference<float>(p);
  compare(verdict, "y", distance(values_of(p.y), truth.y), distance(same.y, truth.y), 2);
  compare(verdict, "d_rows", distance(values_of(p.d_rows), truth.d_rows), distance(same.d_rows, truth.d_rows), 3);
  compare(verdict, "d_weights", largest_error({p.d_weights.begin(), p.d_weights.end()}, truth.d_weights),
          largest_error(same.d_weights, truth.d_weights) + truth.longest * std::ldexp(1.0, -23), 3);
  return verdict;
}

template <class Memory>
Verdict check_experts(const ExpertProblem<Memory>& p) {
  const std::string wrong = check_sorted(p);
  return wrong.empty() ? check_rows(p) : Verdict{wrong, 0};
}

}  // namespace meristem::test
