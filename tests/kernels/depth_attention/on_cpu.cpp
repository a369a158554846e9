// The depth attention kernels' own source on the CPU layer, against the reference: what a problem needs, what is refused, and the parts of
// mutation.json, each a pass of an instantiation with the problems that it serves. The backward kernel starts from the reference's output,
// so that its part needs no other kernel.
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "kernels/depth_attention/problem.h"
#include "kernels/depth_attention/reference.h"
#include "kernels/on_cpu.h"

namespace meristem::test {
namespace {

using Depth = DepthProblem<CpuMemory>;

// How many blocks and exchanges a problem needs and how many bytes it leaves: a block too many, or an element that two lanes write, changes
// no result.
// Of the forward or the backward kernel.
Work depth_work(const DepthCase& given, bool backward) {
  const unsigned group = static_cast<unsigned>(given.heads / given.kv_heads);
  // Lanes of a row of a key head: a power of two for its chunks, at most a warp, once for every four query heads begun.
  const unsigned row_lanes = std::min(std::bit_ceil(static_cast<unsigned>(given.head_dim / 8)), 32u),
                 parts = std::bit_ceil((group + 3) / 4);
  const std::int64_t rows = std::int64_t{given.tokens} * given.kv_heads, of_block = 128 / (row_lanes * parts);
  const std::int64_t queries = std::int64_t{given.tokens} * given.heads * given.head_dim * 2, entries = rows * given.head_dim * 2;
  Work work;
  work.blocks = (rows + of_block - 1) / of_block;
  work.stored = queries + (backward ? 2 * given.entries * entries : 4 * std::int64_t{given.tokens} * given.heads);
  // What the sums over lanes take, in four warps a block: scores of a batch of entries at once, in the backward pass two for each entry
  // that there is and delta; and there, over a group's parts, eight elements of each chunk's key and value.
  const int heads = group > 2 ? 4 : static_cast<int>(group), chunks = given.head_dim > 512 ? 4 : given.head_dim > 256 ? 2 : 1;
  const int batch = heads == 4 ? 2 : 4 / chunks, batches = (given.entries + batch - 1) / batch;
  const std::int64_t scores = heads * std::countr_zero(row_lanes), columns = 2 * 8 * chunks * std::countr_zero(parts);
  work.exchanges = 4 * work.blocks * (backward ? scores + given.entries * (2 * scores + columns) : batches * batch * scores);
  return work;
}

// Whether a pass moved each byte between global memory and warps once, in whole 32-byte sectors. For rows without gaps.
std::string wrong_traffic_of(const Depth& p, bool backward) {
  const std::int64_t numbers = p.given.tokens * p.given.heads, queries = 2 * numbers * p.given.head_dim;
  const std::int64_t entries = 2 * std::int64_t{p.given.entries} * p.given.tokens * p.kv_columns() * 2;
  // Forward: queries in and out, entries in. Backward: three in, one out; entries in, and as much out.
  const std::int64_t needed = backward ? 4 * queries + 2 * entries : 2 * queries + entries;
  return wrong_bytes(needed, needed + 32 * numbers);  // the log-sum-exp goes out and comes in a number a head: at most a sector each
}

// What a caller must not ask for, and what it may just so. Each line of the list is one wrong thing; nothing here runs a kernel.
struct DepthCall {
  kernels::DepthAttentionShape shape;
  kernels::DepthInput q, out, d_out;
  kernels::DepthOutput written, dq;
  std::vector<kernels::DepthInput> keys, values;
  std::vector<kernels::DepthEntryGradient> d_keys, d_values;
};

DepthCall depth_call(const Depth& p) {
  return {p.shape(),     p.q.input(),         p.out.input(),         p.d_out.input(), p.out.output(),
          p.dq.output(), p.inputs_of(p.keys), p.inputs_of(p.values), p.gradients(0),  p.gradients(1)};
}

enum class DepthFunction { kForward, kJoin, kBackward };

void call_depth(DepthFunction function, const DepthCall& c, const Depth& p) {
  if (function == DepthFunction::kBackward) {
    kernels::depth_attention_backward(c.shape, c.q, c.keys.data(), c.values.data(), c.out, c.d_out, p.lse(), c.dq,
                                      kernels::DepthGradient::kWrite, c.d_keys.data(), c.d_values.data(), nullptr);
  } else {
    const auto forward = function == DepthFunction::kJoin ? kernels::depth_attention_join : kernels::depth_attention_forward;
    forward(c.shape, c.q, c.keys.data(), c.values.data(), c.written, p.lse(), nullptr);
  }
}

struct DepthRefusal {
  std::string part;  // of the message
  std::function<void(DepthCall&)> change;
};

// Refused by all three.
std::vector<DepthRefusal> depth_refusals() {
  const auto shaped = [](int heads, int kv_heads, int head_dim) {
    return [=](DepthCall& c) { c.shape.heads = heads, c.shape.kv_heads = kv_heads, c.shape.head_dim = head_dim; };
  };
  return {
      {"a negative number of tokens", [](DepthCall& c) { c.shape.tokens = -1; }},
      {"2 query heads over 3 key heads", shaped(2, 3, 64)},
      {"5 query heads over 3 key heads", shaped(5, 3, 64)},
      {"2 query heads over 0 key heads", shaped(2, 0, 64)},
      {"-2 query heads over -1 key heads", shaped(-2, -1, 64)},
      {"0 query heads over 1 key heads", shaped(0, 1, 64)},
      {"more than 2^30 tokens times key heads", [](DepthCall& c) { c.shape.tokens = (1 << 30) + 1; }},
      {"more than 2^30 tokens times key heads", [](DepthCall& c) { c.shape.tokens = 0x7FFFFFFF, c.shape.kv_heads = 2; }},
      {"129 entries; allowed: ", [](DepthCall& c) { c.shape.entries = 129; }},
      {"-1 entries; allowed: ", [](DepthCall& c) { c.shape.entries = -1; }},
      {"head dim 0 with 2 query heads a key head; allowed: multiples of 8 up to 256", shaped(2, 1, 0)},
      {"head dim -8 with", shaped(2, 1, -8)},
      {"head dim 68 with", shaped(2, 1, 68)},
      {"head dim 4 with", shaped(1, 1, 4)},
      {"head dim 264 with 2 query heads a key head; allowed: multiples of 8 up to 256", shaped(2, 1, 264)},
      {"head dim 1032 with 1 query heads a key head; allowed: multiples of 8 up to 1024", shaped(2, 2, 1032)},
      {"17 query heads a key head of 64; allowed: 1 to 16", shaped(17, 1, 64)},
      {"9 query heads a key head of 128; allowed: 1 to 8", shaped(18, 2, 128)},
      {"9 query heads a key head of 72; allowed: 1 to 8", shaped(9, 1, 72)},
      {"5 query heads a key head of 256; allowed: 1 to 4", shaped(5, 1, 256)},
      {"129 query heads a key head of 8; allowed: 1 to 128", shaped(129, 1, 8)},
      {"the scale must be positive", [](DepthCall& c) { c.shape.scale = 0; }},
      {"the scale must be positive", [](DepthCall& c) { c.shape.scale = -1; }},
      {"the scale must be positive", [](DepthCall& c) { c.shape.scale = std::nanf(""); }},
      {"q is not aligned to 16 bytes", [](DepthCall& c) { c.q.data += 1; }},
      {"q is not aligned to 16 bytes", [](DepthCall& c) { c.q.data += 4; }},
      {"q: a row stride that is no multiple of 8", [](DepthCall& c) { c.q.row_stride = 132; }},
      {"out is not aligned", [](DepthCall& c) { c.out.data += 1, c.written.data += 1; }},
      {"out: a row stride", [](DepthCall& c) { c.out.row_stride = c.written.row_stride = 129; }},
      {"key 0 is not aligned", [](DepthCall& c) { c.keys[0].data += 1; }},
      {"key 1: a row stride", [](DepthCall& c) { c.keys[1].row_stride = 65; }},
      {"value 0: a row stride", [](DepthCall& c) { c.values[0].row_stride = 65; }},
      {"value 1 is not aligned", [](DepthCall& c) { c.values[1].data += 1; }},
  };
}

// Refused by the backward pass, which alone is given most of these.
std::vector<DepthRefusal> depth_backward_refusals() {
  return {
      {"-1 entries; allowed: 0 to 128", [](DepthCall& c) { c.shape.entries = -1; }},
      {"d_out is not aligned", [](DepthCall& c) { c.d_out.data += 1; }},
      {"dq is not aligned", [](DepthCall& c) { c.dq.data += 1; }},
      {"key gradient 0 is not aligned", [](DepthCall& c) { c.d_keys[0].rows.data += 1; }},
      {"key gradient 1: a row stride", [](DepthCall& c) { c.d_keys[1].rows.row_stride = 65; }},
      {"value gradient 1 is not aligned", [](DepthCall& c) { c.d_values[1].rows.data += 1; }},
  };
}

// Empty, or the first thing that is wrong. What is allowed is joined to nothing, which runs no kernel.
std::string wrong_depth_refusals() {
  const Depth problem({"", 3, 2, 1, 64, 2, true});
  const auto refused = [&](DepthFunction function, const DepthRefusal& refusal) {
    DepthCall call = depth_call(problem);
    refusal.change(call);
    return not_refused(refusal.part, [&] { call_depth(function, call, problem); });
  };
  std::string wrong;
  const auto note = [&](const std::string& found) { wrong = wrong.empty() ? found : wrong; };
  for (const DepthRefusal& one : depth_refusals()) {
    for (const auto function : {DepthFunction::kForward, DepthFunction::kJoin, DepthFunction::kBackward}) note(refused(function, one));
  }
  for (const DepthRefusal& one : depth_backward_refusals()) note(refused(DepthFunction::kBackward, one));
  note(refused(DepthFunction::kForward, {"0 entries; allowed: 1 to 128", [](DepthCall& c) { c.shape.entries = 0; }}));
  for (const auto& [tokens, heads, kv_heads, head_dim] : {std::array{0, 1, 1, 64},
                                                          {1 << 30, 1, 1, 64},
                                                          {1 << 29, 2, 2, 8},
                                                          {3, 16, 1, 64},
                                                          {3, 128, 1, 8},
                                                          {3, 8, 1, 72},
                                                          {3, 8, 1, 128},
                                                          {3, 4, 1, 256},
                                                          {3, 1, 1, 1024},
                                                          {3, 2, 2, 264},
                                                          {3, 6, 2, 8}}) {
    DepthCall call = depth_call(problem);
    call.shape = {tokens, heads, kv_heads, head_dim, 0, 1e-30f};
    const std::string refusal = refusal_of([&] { call_depth(DepthFunction::kJoin, call, problem); });
    if (!refusal.empty()) note("what is allowed is refused: " + refusal);
  }
  return wrong;
}

// Of a case, worked out once.
const DepthReferences& references(const Depth& problem) {
  static std::map<std::string, DepthReferences> known;
  const auto at = known.find(problem.given.name);
  return at != known.end() ? at->second : known.emplace(problem.given.name, references_of(problem)).first->second;
}

std::string depth_faults(const DepthCase& one, bool backward) {
  Depth problem(one);
  const DepthResult& same = references(problem).same;
  if (backward) {
    for (int n = 0; n < one.tokens; ++n) {
      for (int c = 0; c < problem.out.columns; ++c)
        problem.out.words[problem.out.at(n, c)] = element_of<Bf16>(same.out[problem.out_before.at(n, c)]);
    }
    for (std::size_t i = 0; i < same.log_sum_exp.size(); ++i) problem.log_sum_exp[i] = static_cast<float>(same.log_sum_exp[i]);
  }
  const std::string wrong = judged(one.seed, depth_work(one, backward), [&] {
    backward ? problem.run_backward() : problem.run_forward();
    const Verdict verdict = backward ? check_backward(problem, references(problem)) : check_forward(problem, references(problem));
    worst_error = std::max(worst_error, verdict.worst);
    return verdict.wrong;
  });
  return wrong.empty() && !one.apart ? wrong_traffic_of(problem, backward) : wrong;
}

std::string whole_faults(const DepthCase& one) {
  Depth problem(one);
  return judged(one.seed, depth_work(one, false) + depth_work(one, true), [&] {
    problem.run();
    return check_forward(problem, references(problem)).wrong + check_backward(problem, references(problem)).wrong;
  });
}

std::string schedules_agree() {
  const DepthCase one{"", 6, 10, 2, 64, 5, true};
  return same_in_two_schedules(depth_work(one, false) + depth_work(one, true), [&] {
    Depth problem(one);
    problem.run();
    std::vector<double> bits = values_of(problem.out);
    for (const auto* matrices : {&problem.d_keys, &problem.d_values}) {
      for (const auto& matrix : *matrices) {
        for (const double x : values_of(matrix)) bits.push_back(x);
      }
    }
    return bits;
  });
}

// Rows 2^28 elements apart: 12 of them span 6 GB, of which the touched pages alone exist. With one entry the output is its value.
std::string wrong_far_rows() {
  constexpr std::int64_t kStride = std::int64_t{1} << 28;
  Depth near({"", 12, 1, 1, 64, 1});
  CpuArray<Bf16> far(static_cast<std::size_t>(kStride * 11 + 128), /*poison=*/false);
  const auto row = [&](int n) { return far.data() + n * kStride; };
  for (int n = 0; n < 12; ++n) std::copy_n(&near.values[0].words[near.values[0].at(n, 0)], 64, row(n));
  const auto keys = near.inputs_of(near.keys);
  const kernels::DepthInput value{far.data(), kStride};
  kernels::depth_attention_forward(near.shape(), near.q.input(), keys.data(), &value, {far.data() + 64, kStride}, near.lse(), nullptr);
  for (int n = 0; n < 12; ++n) {
    if (!std::equal(row(n), row(n) + 64, row(n) + 64)) return "wrong: row " + std::to_string(n);
  }
  return "";
}

std::string joins_nothing() {
  Depth problem({"", 3, 2, 1, 64, 2, true});
  auto none = problem.shape();
  none.entries = 0;
  const Bf16 first = problem.out.words[0];
  return judged(0, {}, [&] {
    kernels::depth_attention_join(none, problem.q.input(), nullptr, nullptr, problem.out.output(), problem.lse(), nullptr);
    return problem.out.words[0] == first ? "" : "the output has changed";
  });
}

std::string instantiation_of(const DepthCase& one) {
  const int group = one.heads / one.kv_heads;
  if (group > 1) return group > 2 ? "4x1" : "2x1";
  return one.head_dim > 512 ? "1x4" : one.head_dim > 256 ? "1x2" : "1x1";
}

}  // namespace

std::vector<Part> parts() {
  Part whole{"whole",
             {{"two schedules give the same bits", schedules_agree},
              {"offsets beyond 2^31 elements", wrong_far_rows},
              {"no entries to join", joins_nothing}}};
  std::vector<DepthCase> cases;
  // Rows without gaps, whose bytes are counted. Where parts of a group load the same bytes, they do so in one instruction of a warp.
  for (const int heads : {1, 2, 4, 8}) {
    for (const int head_dim : {64, 128}) {
      cases.push_back(
          {"dense " + std::to_string(heads) + " of " + std::to_string(head_dim), 16, 2 * heads, 2, head_dim, 6, false, 1, 0, 0, false});
    }
  }
  for (const int head_dim : {512, 1024})
    cases.push_back({"dense of " + std::to_string(head_dim), 8, 2, 2, head_dim, 5, false, 1, 0, 0, false});
  for (const DepthCase& one : depth_cases()) cases.push_back(one);
  for (const DepthCase& one : random_depth_cases(20)) cases.push_back(one);
  std::map<std::string, std::vector<Problem>> by_part;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const DepthCase& one = cases[i];
    for (const bool backward : {false, true}) {
      by_part[(backward ? "backward " : "forward ") + instantiation_of(one)].push_back(
          {one.name, [one, backward] { return depth_faults(one, backward); }});
    }
    if (i % 4 == 3) whole.problems.push_back({one.name, [one] { return whole_faults(one); }});
  }
  std::vector<Part> all{{"refusals", {{"refusals", [] { return of_kind("refusal", wrong_depth_refusals()); }}}}};
  for (auto& [name, problems] : by_part) all.push_back({name, std::move(problems)});
  all.push_back(whole);
  return all;
}

}  // namespace meristem::test
