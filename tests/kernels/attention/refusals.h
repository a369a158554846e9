// What a caller must not ask for. Each line of the list is one wrong thing; what is refused must be refused before anything runs.
#pragma once

#include <array>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

struct AttentionCall {
  kernels::AttentionShape shape;
  kernels::AttentionInput q, k, v, out, d_out;
  kernels::AttentionOutput written, dq, dk, dv;
};

inline AttentionCall attention_call(const AttentionProblem& problem) {
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
          problem.gradient('v')};
}

struct Refusal {
  std::string name;
  bool forward, backward;  // which of the two must refuse
  std::function<void(AttentionCall&)> change;
};

inline std::vector<Refusal> attention_refusals() {
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
      {"a row stride of 193", true, true, [](AttentionCall& c) { c.q.row_stride = 193; }},
      {"a row stride of 196", true, true, [](AttentionCall& c) { c.v.row_stride = 196; }},
      {"a head stride of 60", true, true, [](AttentionCall& c) { c.k.head_stride = 60; }},
      {"a gradient's head stride of 68", false, true, [](AttentionCall& c) { c.dv.head_stride = 68; }},
  };
}

// Whether the call throws std::invalid_argument.
inline bool refuses(bool backward, const AttentionCall& c, const AttentionProblem& problem) {
  try {
    if (backward) {
      kernels::attention_backward(c.shape, c.q, c.k, c.v, c.out, c.d_out, problem.log_sum_exp.data(), problem.delta.data(), c.dq, c.dk,
                                  c.dv, nullptr);
    } else {
      kernels::attention_forward(c.shape, c.q, c.k, c.v, c.written, problem.log_sum_exp.data(), nullptr);
    }
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Empty, or the first thing that is wrong. Nothing runs a kernel: what is allowed is of no tokens.
inline std::string wrong_refusals() {
  const AttentionProblem problem(AttentionCase{"", {8}, 2, 1, 64});
  for (const Refusal& refusal : attention_refusals()) {
    AttentionCall call = attention_call(problem);
    refusal.change(call);
    for (const bool backward : {false, true}) {
      if (!(backward ? refusal.backward : refusal.forward)) continue;
      if (!refuses(backward, call, problem)) return refusal.name + (backward ? ", backward" : ", forward") + ": is not refused";
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
      const std::int64_t before = kernels::device::host::Grid::current().work.blocks;
      if (refuses(backward, call, problem)) return "what is allowed is refused";
      if (kernels::device::host::Grid::current().work.blocks != before) return "something is started for no tokens";
    }
  }
  return "";
}

}  // namespace meristem::test
