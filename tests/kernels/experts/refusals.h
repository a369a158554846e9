// What a caller must not ask for, and what it may just so. Each line of the lists is one wrong thing; nothing here runs a kernel.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/experts/problem.h"
#include "kernels/refused.h"

namespace meristem::test {

// What the functions are called with.
struct ExpertCall {
  kernels::ExpertShape shape;
  const std::uint16_t *x, *dy, *rows;
  std::uint16_t *gathered, *y, *d_rows;
};

inline ExpertCall expert_call(ExpertProblem& p) {
  return {p.shape(), p.x.data(), p.dy.data(), p.rows.data(), p.gathered.data(), p.y.data(), p.d_rows.data()};
}

struct ExpertFunction {
  std::string name;
  std::function<void(const ExpertCall&)> call;
};

inline std::vector<ExpertFunction> expert_functions(ExpertProblem& p) {
  return {
      {"scratch", [](const ExpertCall& c) { kernels::expert_sort_scratch(c.shape); }},
      {"sort",
       [&p](const ExpertCall& c) {
         kernels::expert_sort(c.shape, p.chosen.data(), p.scratch.data(), p.place.data(), p.ends.data(), nullptr);
       }},
      {"gather", [&p](const ExpertCall& c) { kernels::expert_gather(c.shape, c.x, p.place.data(), c.gathered, nullptr); }},
      {"combine", [&p](const ExpertCall& c) { kernels::expert_combine(c.shape, c.rows, p.place.data(), p.weights.data(), c.y, nullptr); }},
      {"backward",
       [&p](const ExpertCall& c) {
         kernels::expert_combine_backward(c.shape, c.dy, c.rows, p.place.data(), p.weights.data(), c.d_rows, p.d_weights.data(), nullptr);
       }},
  };
}

struct ExpertRefusal {
  std::string function, part;  // which must refuse (empty: all), and a part of the message
  std::function<void(ExpertCall&)> change;
};

inline std::vector<ExpertRefusal> expert_refusals() {
  return {
      {"", "a negative number of tokens", [](ExpertCall& c) { c.shape.tokens = -1; }},
      {"", "4097 experts; allowed: 1 to 4096", [](ExpertCall& c) { c.shape.experts = 4097; }},
      {"", "0 experts; allowed", [](ExpertCall& c) { c.shape.experts = 0; }},
      {"", "5 choices a token of 4 experts", [](ExpertCall& c) { c.shape.choices = 5; }},
      {"", "0 choices a token", [](ExpertCall& c) { c.shape.choices = 0; }},
      {"", "more than 2^30 choices", [](ExpertCall& c) { c.shape.tokens = (1 << 29) + 1; }},
      {"", "more than 2^30 choices", [](ExpertCall& c) { c.shape.tokens = 0x7FFFFFFF; }},
      {"", "width 12; allowed: multiples of 8", [](ExpertCall& c) { c.shape.width = 12; }},
      {"", "width 4;", [](ExpertCall& c) { c.shape.width = 4; }},
      {"", "width 0;", [](ExpertCall& c) { c.shape.width = 0; }},
      {"", "width -8;", [](ExpertCall& c) { c.shape.width = -8; }},
      {"gather", "x is not aligned to 16 bytes", [](ExpertCall& c) { c.x += 1; }},
      {"gather", "x is not aligned to 16 bytes", [](ExpertCall& c) { c.x += 4; }},
      {"gather", "rows is not aligned", [](ExpertCall& c) { c.gathered += 1; }},
      {"combine", "rows is not aligned", [](ExpertCall& c) { c.rows += 1; }},
      {"combine", "y is not aligned", [](ExpertCall& c) { c.y += 1; }},
      {"backward", "dy is not aligned", [](ExpertCall& c) { c.dy += 1; }},
      {"backward", "rows is not aligned", [](ExpertCall& c) { c.rows += 1; }},
      {"backward", "d_rows is not aligned", [](ExpertCall& c) { c.d_rows += 1; }},
  };
}

// Empty, or the first thing that is wrong.
inline std::string wrong_expert_refusals() {
  ExpertProblem problem({"", 3, 2, 4, 16});
  for (const ExpertRefusal& refusal : expert_refusals()) {
    ExpertCall call = expert_call(problem);
    refusal.change(call);
    for (const ExpertFunction& function : expert_functions(problem)) {
      if (!refusal.function.empty() && refusal.function != function.name) continue;
      const std::string wrong = not_refused(refusal.part, [&] { function.call(call); });
      if (!wrong.empty()) return function.name + ": " + wrong;
    }
  }
  // What is allowed, and the scratch that it needs: a count for each expert and tile of 512 choices, and their sum.
  for (const auto& shape : {kernels::ExpertShape{0, 1, 1, 8}, {1, 1, 1, 8}, {256, 2, 4096, 8}, {257, 2, 33, 16}, {1 << 29, 2, 2, 8}}) {
    const std::int64_t needed = ((std::int64_t{shape.tokens} * shape.choices + 511) / 512 + 1) * shape.experts;
    std::int64_t found = -1;
    const std::string refusal = refusal_of([&] { found = kernels::expert_sort_scratch(shape); });
    if (!refusal.empty()) return "what is allowed is refused: " + refusal;
    if (found != needed) return "scratch: " + std::to_string(found) + " integers; needed: " + std::to_string(needed);
  }
  return "";
}

}  // namespace meristem::test
