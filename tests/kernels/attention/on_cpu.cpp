// The attention kernels' own source on the CPU layer, against the reference: what a problem needs, what is refused, and the parts of
// mutation.json. The backward kernels start from the reference's output, so that a part needs no kernel of another one; the part "whole"
// runs them on the forward kernel's.
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "kernels/attention/problem.h"
#include "kernels/attention/reference.h"
#include "kernels/on_cpu.h"

namespace meristem::test {

std::string wrong_places();  // places_check.cpp

namespace {

using Attention = AttentionProblem<CpuMemory>;
using dev::host::kA10;
using dev::host::kA100;
using dev::host::kH200;

// How much work a problem needs, counted from which keys each query sees: a kernel that also visits tiles without a visible pair gives the
// same results, later.
std::int64_t tokens_of(const AttentionCase& given) {
  std::int64_t tokens = 0;
  for (const int length : given.lengths) tokens += length;
  return tokens;
}

// The first and the last key that a query sees.
struct Seen {
  int first, last;
};
Seen keys_of(const AttentionCase& given, int length, int query) {
  return {given.window_left < 0 ? 0 : std::max(0, query - given.window_left),
          given.window_right < 0 ? length - 1 : std::min(length - 1, query + given.window_right)};
}

// Over all documents and the tiles of `rows` rows that they are cut into: how many tiles there are, and how many steps of `columns` columns
// the rows of each need, from the first column that one of them sees to the last. Columns are keys, or queries if `transposed`.
struct TileCount {
  int tiles = 0, steps = 0;
  int rows = 0;  // that the steps' columns hold, as far as the document has them
};
TileCount count_tiles(const AttentionCase& given, int rows, int columns, bool transposed) {
  TileCount count;
  for (const int length : given.lengths) {
    for (int begin = 0; begin < length; begin += rows) {
      const int end = std::min(begin + rows, length);
      int first = length, last = -1;
      for (int query = 0; query < length; ++query) {
        const Seen keys = keys_of(given, length, query);
        if (transposed ? keys.last < begin || keys.first >= end : query < begin || query >= end) continue;
        first = std::min(first, transposed ? query : keys.first);
        last = std::max(last, transposed ? query : keys.last);
      }
      ++count.tiles;
      count.steps += last / columns - first / columns + 1;
      count.rows += std::min(length, (last / columns + 1) * columns) - first / columns * columns;
    }
  }
  return count;
}

// One kernel's: `heads` blocks a tile; `fixed` rows copied once a tile, `streamed` ones a step; products of [rows, columns] by D a step.
Work tiled_work(const AttentionCase& given, int rows, int columns, bool transposed, int heads, int fixed, int streamed, int products) {
  const TileCount count = count_tiles(given, rows, columns, transposed);
  const int chunks = given.head_dim / 8, steps = count.steps * (transposed ? given.heads : heads);  // a key tile takes each query head
  Work work;
  work.products = std::int64_t{products} * steps * rows * columns * given.head_dim / (16 * 8 * 16);
  work.copies = (std::int64_t{count.tiles} * heads * fixed + std::int64_t{steps} * streamed) * chunks;
  work.barriers = std::int64_t{steps} * 4;  // one a step, of four warps
  work.blocks = (tokens_of(given) / rows + static_cast<std::int64_t>(given.lengths.size())) * heads;
  work.shared = (fixed + 2 * streamed) * given.head_dim * 2;  // two stages of what is streamed
  return work;
}

Work forward_work(const AttentionCase& given) {
  const dev::Limits& device = Grid::current().settings.limits;
  const int keys = given.head_dim == 64 || device.shared_of_processor >= 2 * (97 << 10) ? 64 : 32;  // two blocks of 96 KiB and 1 KiB
  Work work = tiled_work(given, 128, keys, false, given.heads, 128, 2 * keys, 2);
  work.stored = tokens_of(given) * given.heads * (2 * given.head_dim + 4);  // out and log-sum-exp
  // Of four warps with two tiles of 16 rows each: the maximum of the four lanes of a row in each step, their sum at the end.
  const std::int64_t steps = work.barriers / 4, tiles = std::int64_t{count_tiles(given, 128, keys, false).tiles} * given.heads;
  work.exchanges = 4 * 2 * 2 * 2 * (steps + tiles);
  return work;
}

// delta's launch of the backward pass: a number a row, and where dQ is added up, its sums to zero.
Work delta_work(const AttentionCase& given) {
  const std::int64_t numbers = tokens_of(given) * given.heads, rows = 128 / (given.head_dim / 8);  // of a block
  Work work;
  work.blocks = (numbers + rows - 1) / rows;
  work.stored = numbers * 4 * (given.tiled ? 1 + given.head_dim : 1);
  work.exchanges = work.blocks * 4 * (given.head_dim == 64 ? 3 : 4);  // the sum over the lanes of a row
  return work;
}
std::int64_t gradient_bytes(const AttentionCase& given) {
  return tokens_of(given) * (given.heads + 2 * given.kv_heads) * given.head_dim * 2;
}
// A block of keys takes with each step's queries their log-sum-exp and delta, in two stages.
void add_numbers(Work& work, const AttentionCase& given, const TileCount& count, int queries) {
  work.copies += std::int64_t{count.steps} * given.heads * 2 * queries;
  work.shared += 2 * 2 * queries * 4;
}

Work deterministic_work(const AttentionCase& given) {
  const int queries = given.head_dim == 64 ? 64 : 32;
  Work keys = tiled_work(given, 64, queries, true, given.kv_heads, 128, 2 * queries, 4);
  add_numbers(keys, given, count_tiles(given, 64, queries, true), queries);
  keys.stored = gradient_bytes(given);
  return delta_work(given) + keys + tiled_work(given, 64, 64, false, given.heads, 128, 128, 3);
}

// 8 warps, two barriers a step and one a tile; P and dS in shared memory; a sum of dQ for each pair of a key tile and a query that one of
// its steps holds.
Work adding_work(const AttentionCase& given) {
  const int queries = given.head_dim == 64 ? 128 : 64;
  const TileCount count = count_tiles(given, 128, queries, true);
  Work work = tiled_work(given, 128, queries, true, given.kv_heads, 256, 2 * queries, 5);
  add_numbers(work, given, count, queries);
  work.barriers = std::int64_t{8} * (2 * count.steps * given.heads + count.tiles * given.kv_heads);
  work.shared += 2 * 128 * queries * 2;
  work.added = std::int64_t{count.rows} * given.heads * given.head_dim * 4;
  work.blocks += (tokens_of(given) * given.heads * (given.head_dim / 8) + 255) / 256;  // that round dQ
  work.stored = gradient_bytes(given);
  return delta_work(given) + work;
}

// 161 KiB and 1 KiB, or none of the device's blocks adds dQ up.
bool adds(const AttentionCase& given) { return given.tiled && Grid::current().settings.limits.shared_of_processor >= 164 << 10; }

Work backward_work(AttentionCase given) {
  given.tiled = adds(given);
  return given.tiled ? adding_work(given) : deterministic_work(given);
}

// What a caller must not ask for. Each line of the list is one wrong thing; what is refused must be refused before anything runs.
struct AttentionCall {
  kernels::AttentionShape shape;
  kernels::AttentionInput q, k, v, out, d_out;
  kernels::AttentionOutput written, dq, dk, dv;
  float* dq_sums = nullptr;
};

AttentionCall attention_call(const Attention& problem) {
  const kernels::AttentionOutput out = problem.output();
  return {problem.shape(),
          problem.input('q'),
          problem.input('k'),
          problem.input('v'),
          {out.data, out.row_stride, out.head_stride},
          {problem.d_out.data(), out.row_stride, out.head_stride},
          out,
          problem.gradient('q'),
          problem.gradient('k'),
          problem.gradient('v'),
          nullptr};
}

struct Refusal {
  std::string name;
  bool forward, backward;  // which of the two must refuse
  std::function<void(AttentionCall&)> change;
};

std::vector<Refusal> attention_refusals() {
  return {
      {"head dim 96", true, true, [](AttentionCall& c) { c.shape.head_dim = 96; }},
      {"head dim 32", true, true, [](AttentionCall& c) { c.shape.head_dim = 32; }},
      {"three key heads for two", true, true, [](AttentionCall& c) { c.shape.kv_heads = 3; }},
      {"no key head", true, true, [](AttentionCall& c) { c.shape.kv_heads = 0; }},
      {"no head", true, true, [](AttentionCall& c) { c.shape.heads = 0; }},
      {"scale 0", true, true, [](AttentionCall& c) { c.shape.scale = 0; }},
      {"tokens below 0", true, true, [](AttentionCall& c) { c.shape.tokens = -1; }},
      {"documents below 0", true, true, [](AttentionCall& c) { c.shape.documents = -1; }},
      {"tokens of no document", true, true, [](AttentionCall& c) { c.shape.documents = 0; }},
      {"q not aligned", true, true, [](AttentionCall& c) { c.q.data += 1; }},
      {"k not aligned", true, true, [](AttentionCall& c) { c.k.data += 4; }},
      {"v not aligned", true, true, [](AttentionCall& c) { c.v.data += 7; }},
      {"out not aligned", true, true, [](AttentionCall& c) { c.written.data += 1, c.out.data += 1; }},
      {"d_out not aligned", false, true, [](AttentionCall& c) { c.d_out.data += 1; }},
      {"dq not aligned", false, true, [](AttentionCall& c) { c.dq.data += 1; }},
      {"dk not aligned", false, true, [](AttentionCall& c) { c.dk.data += 1; }},
      {"dv not aligned", false, true, [](AttentionCall& c) { c.dv.data += 1; }},
      {"the sums of dq not aligned", false, true, [](AttentionCall& c) { c.dq_sums = reinterpret_cast<float*>(std::uintptr_t{4}); }},
      {"a row stride of 193", true, true, [](AttentionCall& c) { c.q.row_stride = 193; }},
      {"a row stride of 196", true, true, [](AttentionCall& c) { c.v.row_stride = 196; }},
      {"a head stride of 60", true, true, [](AttentionCall& c) { c.k.head_stride = 60; }},
      {"a gradient's head stride of 68", false, true, [](AttentionCall& c) { c.dv.head_stride = 68; }},
  };
}

// What the call is refused with.
std::string refusal(bool backward, const AttentionCall& c, const Attention& problem) {
  return refusal_of([&] {
    if (backward) {
      kernels::attention_backward(c.shape, c.q, c.k, c.v, c.out, c.d_out, problem.log_sum_exp.data(), problem.delta.data(), c.dq_sums, c.dq,
                                  c.dk, c.dv, nullptr);
    } else {
      kernels::attention_forward(c.shape, c.q, c.k, c.v, c.written, problem.log_sum_exp.data(), nullptr);
    }
  });
}

// Empty, or the first thing that is wrong. Nothing runs a kernel: what is allowed is of no tokens.
std::string wrong_refusals() {
  const Attention problem(AttentionCase{"", {8}, 2, 1, 64});
  for (const Refusal& one : attention_refusals()) {
    AttentionCall call = attention_call(problem);
    one.change(call);
    for (const bool backward : {false, true}) {
      if (!(backward ? one.backward : one.forward)) continue;
      if (refusal(backward, call, problem).empty()) return one.name + (backward ? ", backward" : ", forward") + ": is not refused";
    }
  }
  for (const auto& [head_dim, heads, kv_heads, documents] : {std::array{64, 1, 1, 0}, {128, 1, 1, 3}, {64, 6, 3, 0}, {128, 2, 1, 3}}) {
    AttentionCall call = attention_call(problem);
    call.shape.tokens = 0;
    call.shape.documents = documents;
    call.shape.head_dim = head_dim;
    call.shape.heads = heads;
    call.shape.kv_heads = kv_heads;
    for (const bool backward : {false, true}) {
      const std::int64_t before = Grid::current().work.blocks;
      if (!refusal(backward, call, problem).empty()) return "what is allowed is refused";
      if (Grid::current().work.blocks != before) return "something is started for no tokens";
    }
  }
  return "";
}

// Of a case, worked out once.
const AttentionReferences& references(const Attention& problem) {
  static std::map<std::string, AttentionReferences> known;
  const auto at = known.find(problem.given.name);
  return at != known.end() ? at->second : known.emplace(problem.given.name, references_of(problem)).first->second;
}

std::string noted(const Verdict& verdict) {
  worst_error = std::max(worst_error, verdict.worst);
  return verdict.wrong;
}

std::string forward_faults(const AttentionCase& one, const dev::Limits& device) {
  const On on(device);
  Attention problem(one);
  return judged(one.seed, forward_work(one), [&] {
    problem.run_forward();
    return noted(check_forward(problem, references(problem)));
  });
}

std::string backward_faults(const AttentionCase& one, const dev::Limits& device) {
  const On on(device);
  Attention problem(one);
  const AttentionResult& same = references(problem).same;
  const int width = one.heads * one.head_dim;
  for (int t = 0; t < problem.tokens; ++t) {
    for (int c = 0; c < width; ++c)
      problem.out[problem.at(t, c, problem.out_columns)] = element_of<Bf16>(same.out[problem.at(t, c, width)]);
  }
  for (std::size_t i = 0; i < problem.log_sum_exp.size(); ++i) problem.log_sum_exp[i] = static_cast<float>(same.log_sum_exp[i]);
  return judged(one.seed, backward_work(one), [&] {
    problem.run_backward();
    return noted(check_backward(problem, references(problem)));
  });
}

std::string whole_faults(const AttentionCase& one) {
  Attention problem(one);
  return judged(one.seed, forward_work(one) + backward_work(one), [&] {
    problem.run();
    return noted(check_forward(problem, references(problem))) + noted(check_backward(problem, references(problem)));
  });
}

std::string cases_are_as_named() {
  for (const AttentionCase& one : attention_cases()) {
    if (one.name.find("log-sum-exp below") == std::string::npos) continue;
    const auto& found = references(Attention(one)).truth.log_sum_exp;
    if (!(*std::max_element(found.begin(), found.end()) < -88)) return "wrong: " + one.name + " is not as it is named";
  }
  return "";
}

// What is wrong in one row, and what was never written.
std::string check_sees_one_row() {
  Attention problem({"one row", {300}, 1, 1, 64, 78});
  const auto found = [&] { return check_forward(problem, references(problem)).wrong; };
  problem.run_forward();
  if (!found().empty()) return "wrong: " + found();
  Bf16& element = problem.out[problem.at(200, 7, problem.out_columns)];
  const Bf16 right = element;
  element =
      element_of<Bf16>(value_of(right) + 0.01);  // one key more in this row; the whole tensor's error is 0.08, of which 2 x is allowed
  if (found().rfind("out, row 200:", 0) != 0) return "wrong: an error in one row is not seen";
  element = 0xFFFF;
  if (found().empty()) return "wrong: an element that nobody wrote is not seen";
  element = right;
  problem.log_sum_exp[4] = std::numeric_limits<float>::quiet_NaN();
  return found().rfind("log_sum_exp:", 0) == 0 ? "" : "wrong: a NaN is not seen";
}

std::string conflicts_are_counted() {
  Grid::current().traffic.clear();
  Attention({"", {70}, 1, 1, 64}).run();
  int lines = 0;
  for (const auto& [line, traffic] : dev::host::by_line(Grid::current().traffic)) lines += traffic.shared_accesses > 0;
  return lines >= 6 ? "" : "wrong: shared memory is counted at " + std::to_string(lines) + " lines";
}

// Without atomics always; with them where a row of dQ has one block that adds to it.
std::string schedules_agree(bool tiled) {
  AttentionCase one{"", {90, 77}, 2, 1, 64};
  one.tiled = tiled;
  return same_in_two_schedules(forward_work(one) + backward_work(one), [&] {
    Attention problem(one);
    problem.run();
    std::vector<double> bits = values_of(problem.out);
    for (const double x : values_of(problem.d_qkv)) bits.push_back(x);
    for (double& x : bits) x = std::isnan(x) ? 1e9 : x;  // a neighbour's columns
    return bits;
  });
}

}  // namespace

std::vector<Part> parts() {
  std::vector<Part> all{{"forward 64", {}},  {"backward 64", {}},  {"tiled 64", {}},
                        {"forward 128", {}}, {"backward 128", {}}, {"tiled 128", {}}};
  Part whole{"whole",
             {{"the cases hold what they are named for", cases_are_as_named},
              {"the check sees one row", check_sees_one_row},
              {"bank conflicts are counted at each line", conflicts_are_counted},
              {"two schedules give the same bits", [] { return schedules_agree(false) + schedules_agree(true); }},
              {"offsets beyond 2^31 elements",
               [] { return of_kind("wrong", wrong_far_rows<CpuMemory>(false) + wrong_far_rows<CpuMemory>(true)); }}}};
  auto cases = attention_cases();
  for (const AttentionCase& one : random_attention_cases(12)) cases.push_back(one);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const AttentionCase& one = cases[i];
    const std::size_t first = one.head_dim == 64 ? 0 : 3;
    AttentionCase tiled = one;
    tiled.tiled = true;
    all[first].problems.push_back({one.name, [one] { return forward_faults(one, kH200); }});
    all[first + 1].problems.push_back({one.name, [one] { return backward_faults(one, kH200); }});
    all[first + 2].problems.push_back({one.name, [tiled] { return backward_faults(tiled, kH200); }});
    // Other devices: what an A100 has room for, and one without the shared memory for dQ's sums.
    if (i % 3 == 0 && one.head_dim == 128) {
      all[first].problems.push_back({one.name + ", on an A100", [one] { return forward_faults(one, kA100); }});
    }
    if (i % 8 == 0) {
      all[first + 2].problems.push_back({one.name + ", on an A100", [tiled] { return backward_faults(tiled, kA100); }});
      all[first + 2].problems.push_back({one.name + ", on an A10", [tiled] { return backward_faults(tiled, kA10); }});
    }
    if (i % 8 == 7) whole.problems.push_back({one.name, [i, one, tiled] { return whole_faults(i % 16 == 7 ? one : tiled); }});
  }
  all.push_back({"places", {{"window", [] { return of_kind("wrong", wrong_places()); }}}});
  all.push_back({"refusals", {{"refusals", [] { return of_kind("refusal", wrong_refusals()); }}}});
  all.push_back(whole);
  return all;
}

}  // namespace meristem::test
