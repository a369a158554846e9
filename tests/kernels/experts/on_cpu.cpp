// The expert kernels' own source on the CPU layer: what a problem needs, what is refused, and the parts of mutation.json, the sorting by
// itself and the kernels of rows with places that the host has sorted.
#include <algorithm>
#include <bit>
#include <functional>

#include "kernels/experts/problem.h"
#include "kernels/on_cpu.h"

namespace meristem::test {
namespace {

using Experts = ExpertProblem<CpuMemory>;

// How many blocks, barriers and exchanges a problem needs and how many bytes it leaves: a block too many, or an element that two lanes
// write, changes no result.
// Of run_sort. A warp has a tile of 512 choices and a block of four counts or places four; one of sixteen warps scans eight experts.
Work sort_work(const ExpertCase& given) {
  const std::int64_t choices = std::int64_t{given.tokens} * given.choices, experts = given.experts;
  const std::int64_t tiles = (choices + 511) / 512, counting = (tiles + 3) / 4, scanning = (experts + 7) / 8;
  const std::int64_t placing = std::max<std::int64_t>(counting, 1);  // the ends are written though there be no choice
  Work work;
  work.blocks = counting + scanning + placing;
  work.barriers = 16 * scanning + 4 * 2 * placing;
  work.stored = 4 * (tiles * experts + (tiles + 1) * experts + choices + experts);  // counts; those before each tile, sums; places, ends
  // Five shuffles sum up a warp's counts. For every 32 choices of a tile: which lanes have one, and which have each bit that an expert's
  // number may have.
  work.exchanges = 4 * 5 * placing + tiles * (512 / 32) * (1 + std::bit_width(static_cast<unsigned>(given.experts - 1)));
  // Counters of each of four warps; sums of 64 shares by eight experts; each expert's first row, four sums, and each warp's next row of
  // each.
  work.shared = 4 * 4 * experts + 4 * 64 * 8 + 4 * (experts + 4 + 4 * experts);
  return work;
}

// Of run_rows. A block has eight tokens.
Work rows_work(const ExpertCase& given) {
  const std::int64_t choices = std::int64_t{given.tokens} * given.choices;
  Work work;
  work.blocks = 3 * ((std::int64_t{given.tokens} + 7) / 8);
  work.exchanges = given.tokens * ((given.choices + 3) / 4 * 4 * 5);                 // d_weights of four choices at once
  work.stored = 2 * given.width * (choices + given.tokens + choices) + 4 * choices;  // gathered, y, d_rows; d_weights
  return work;
}

// Whether the three kernels of the sorting moved each number that they need once, in whole 32-byte sectors. For experts that divide by 32,
// at most 128 (each thread of the last scan has one of them then), and choices that fill their tiles.
std::string wrong_sort_traffic(const Experts& p) {
  const std::int64_t tiles = p.rows_count / 512, blocks = (tiles + 3) / 4;
  // Of each choice: its expert, counted and placed, and its place. Of each tile: counts written, read twice, written and read. Sums
  // written, read twice by each block; ends.
  const std::int64_t needed = (8 + 8 + 4) * std::int64_t{p.rows_count} + 4 * p.given.experts * (5 * tiles + 1 + 2 * blocks + 1);
  return wrong_bytes(needed, needed);
}

// Whether the three kernels of rows moved each row between global memory and warps once, in whole 32-byte sectors. For widths of 256 with
// up to four choices: each lane then has one chunk.
std::string wrong_row_traffic(const Experts& p) {
  // Tokens: x, y, dy. Rows: written, read; read and written. Places, weights and their gradients: at most a sector a number.
  const std::int64_t row = 2 * p.given.width, needed = row * (3 * p.given.tokens + 4 * p.rows_count);
  return wrong_bytes(needed, needed + 32 * 6 * p.rows_count);
}

// What a caller must not ask for, and what it may just so. Each line of the lists is one wrong thing; nothing here runs a kernel.
// What the functions are called with.
struct ExpertCall {
  kernels::ExpertShape shape;
  const std::uint16_t *x, *dy, *rows;
  std::uint16_t *gathered, *y, *d_rows;
};

ExpertCall expert_call(Experts& p) {
  return {p.shape(), p.x.data(), p.dy.data(), p.rows.data(), p.gathered.data(), p.y.data(), p.d_rows.data()};
}

struct ExpertFunction {
  std::string name;
  std::function<void(const ExpertCall&)> call;
};

std::vector<ExpertFunction> expert_functions(Experts& p) {
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

std::vector<ExpertRefusal> expert_refusals() {
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
std::string wrong_expert_refusals() {
  Experts problem({"", 3, 2, 4, 16});
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

std::string noted(const Verdict& verdict) {
  worst_error = std::max(worst_error, verdict.worst);
  return verdict.wrong;
}

// Which counters lanes touch together is the choices' business: conflicts are no fault of the sorting.
std::string sort_faults(const ExpertCase& one, bool dense) {
  Experts problem(one);
  const std::string wrong = judged(
      one.seed, sort_work(one),
      [&] {
        problem.run_sort();
        return check_sorted(problem);
      },
      false);
  return wrong.empty() && dense ? wrong_sort_traffic(problem) : wrong;
}

std::string row_faults(const ExpertCase& one, bool dense) {
  Experts problem(one);
  sort_on_host(problem);
  const std::string wrong = judged(one.seed, rows_work(one), [&] {
    problem.run_rows();
    return noted(check_rows(problem));
  });
  return wrong.empty() && dense ? wrong_row_traffic(problem) : wrong;
}

std::string whole_faults(const ExpertCase& one) {
  Experts problem(one);
  return judged(
      one.seed, sort_work(one) + rows_work(one),
      [&] {
        problem.run();
        return noted(check_experts(problem));
      },
      false);
}

std::string cases_are_as_named() {
  Experts crowded({"", 70, 1, 8, 24, true}), sparse({"", 3, 2, 1000, 8});
  crowded.run_sort();
  sparse.run_sort();
  return crowded.ends[6] == 0 && crowded.ends[7] == 70 && sparse.ends[999] == 6 ? "" : "wrong: other ends than the cases are made for";
}

std::string schedules_agree() {
  const ExpertCase one{"", 600, 3, 11, 72};
  std::vector<std::vector<double>> runs;
  for (const std::uint32_t seed : {0u, 7u}) {
    Experts problem(one);
    Grid::current().settings.seed = seed;
    problem.run();
    std::vector<double> bits = values_of(problem.y);
    bits.insert(bits.end(), problem.d_weights.begin(), problem.d_weights.end());
    bits.insert(bits.end(), problem.place.begin(), problem.place.end());
    runs.push_back(bits);
  }
  Grid::current().settings.seed = 0;
  return runs[0] == runs[1] ? "" : "wrong: other bits in another schedule";
}

}  // namespace

std::vector<Part> parts() {
  Part sort{"sort", {}}, rows{"rows", {}};
  Part whole{"whole",
             {{"the cases hold what they are named for", cases_are_as_named}, {"two schedules give the same bits", schedules_agree}}};
  for (const int tokens : {1280, 512}) {
    sort.problems.push_back({"whole sectors", [tokens] { return sort_faults({"", tokens, 2, 128, 8}, true); }});
  }
  for (const int choices : {4, 2, 1}) {
    rows.problems.push_back({"whole sectors", [choices] { return row_faults({"", 12, choices, 8, 256}, true); }});
  }
  auto cases = expert_cases();
  for (const ExpertCase& one : random_expert_cases(25)) cases.push_back(one);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const ExpertCase& one = cases[i];
    sort.problems.push_back({one.name, [one] { return sort_faults(one, false); }});
    rows.problems.push_back({one.name, [one] { return row_faults(one, false); }});
    if (i % 4 == 3) whole.problems.push_back({one.name, [one] { return whole_faults(one); }});
  }
  return {{"refusals", {{"refusals", [] { return of_kind("refusal", wrong_expert_refusals()); }}}}, sort, rows, whole};
}

}  // namespace meristem::test
