// What a caller must not ask for, and what it may just so. Each line of the list is one wrong thing; nothing here runs a kernel.
#pragma once

#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kernels/depth_attention/run.h"
#include "kernels/refused.h"

namespace meristem::test {

struct DepthCall {
  kernels::DepthAttentionShape shape;
  kernels::DepthInput q, out, d_out;
  kernels::DepthOutput written, dq;
  std::vector<kernels::DepthInput> keys, values;
  std::vector<kernels::DepthEntryGradient> d_keys, d_values;
};

inline DepthCall depth_call(const DepthProblem& p) {
  return {p.shape(),     p.q.input(),       p.out.input(),       p.d_out.input(),    p.out.output(),
          p.dq.output(), inputs_of(p.keys), inputs_of(p.values), gradients_of(p, 0), gradients_of(p, 1)};
}

enum class DepthFunction { kForward, kJoin, kBackward };

inline void call_depth(DepthFunction function, const DepthCall& c, const DepthProblem& p) {
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
inline std::vector<DepthRefusal> depth_refusals() {
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
inline std::vector<DepthRefusal> depth_backward_refusals() {
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
inline std::string wrong_depth_refusals() {
  const DepthProblem problem({"", 3, 2, 1, 64, 2, true});
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

}  // namespace meristem::test
