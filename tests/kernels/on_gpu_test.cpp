// Attention, depth attention and expert dispatch on a GPU, on the problems that the CPU layer solves and larger ones.
#include "kernels/on_gpu.h"
#include "kernels/attention/problem.h"
#include "kernels/attention/reference.h"
#include "kernels/depth_attention/problem.h"
#include "kernels/depth_attention/reference.h"
#include "kernels/experts/problem.h"

using namespace meristem::test;

namespace {

// Solves every problem twice: wrong(problem) says what is not right, written(a, b, visit) visits the buffers that runs wrote.
template <class Problem, class Case, class Wrong, class Written>
void check_twice(const std::vector<Case>& cases, const Wrong& wrong, const Written& written) {
  require_gpu();
  for (const Case& one : cases) {
    INFO(one.name);
    Problem problem(one), again(one);
    problem.run();
    CHECK(wrong(problem) == "");
    again.run();
    written(problem, again, [](const auto& a, const auto& b) { CHECK(same_bits(a, b)); });
  }
}

template <class Case>
std::vector<Case> together(std::vector<Case> cases, const std::vector<Case>& random, Case large) {
  cases.insert(cases.end(), random.begin(), random.end());
  cases.push_back(std::move(large));
  return cases;
}

// Blocks beyond what a grid's y and z reach: one a document and head.
AttentionCase many_heads() {
  AttentionCase one{"more than 65,535 documents times heads", {}, 8, 2, 64};
  for (int i = 0; i < 8200; ++i) one.lengths.push_back(1 + i % 3);
  return one;
}

}  // namespace

namespace {

std::string wrong_attention(const AttentionProblem<GpuMemory>& p) {
  const AttentionReferences references = references_of(p);
  return check_forward(p, references).wrong + check_backward(p, references).wrong;
}

// What a mask is, for the proof of its kernel: a window, documents, neither ("causal"; full masks among them), or both.
bool has_mask(const AttentionCase& one, const std::string& mask) {
  const bool window = one.window_left >= 0 || one.window_right > 0, packed = one.lengths.size() > 1;
  return mask == "window" ? window : mask == "packed" ? packed : !window && !packed;
}

void check_attention(const std::string& mask, int head_dim) {
  using Problem = AttentionProblem<GpuMemory>;
  std::vector<AttentionCase> cases;
  for (AttentionCase& one : together(attention_cases(), random_attention_cases(120), many_heads())) {
    if (has_mask(one, mask) && one.head_dim == head_dim) cases.push_back(std::move(one));
  }
  REQUIRE(cases.size() >= 8);
  check_twice<Problem>(cases, wrong_attention, [](const Problem& a, const Problem& b, const auto& visit) {
    visit(a.out, b.out);
    visit(a.d_qkv, b.d_qkv);
  });
  // What adds dQ up in the order that blocks happen to come: each run agrees with the reference, not with another run's last bits.
  for (AttentionCase one : cases) {
    INFO(one.name << ", adding dQ up");
    one.tiled = true;
    for (int run = 0; run < 2; ++run) {
      Problem problem(one);
      problem.run();
      CHECK(wrong_attention(problem) == "");
    }
  }
}

}  // namespace

// Each agrees with the reference, and with itself to the bit.
TEST_CASE("causal attention, head dim 64", "[attention][causal][d64]") { check_attention("causal", 64); }
TEST_CASE("causal attention, head dim 128", "[attention][causal][d128]") { check_attention("causal", 128); }
TEST_CASE("attention in windows, head dim 64", "[attention][window][d64]") { check_attention("window", 64); }
TEST_CASE("attention in windows, head dim 128", "[attention][window][d128]") { check_attention("window", 128); }
TEST_CASE("attention in documents, head dim 64", "[attention][packed][d64]") { check_attention("packed", 64); }
TEST_CASE("attention in documents, head dim 128", "[attention][packed][d128]") { check_attention("packed", 128); }

TEST_CASE("offsets beyond 2^31 elements on the GPU", "[attention][far]") {
  require_gpu();
  CHECK(wrong_far_rows<GpuMemory>(false) == "");
  CHECK(wrong_far_rows<GpuMemory>(true) == "");
}

TEST_CASE("depth attention on the GPU agrees with the reference, and with itself to the bit", "[depth_attention]") {
  using Problem = DepthProblem<GpuMemory>;
  check_twice<Problem>(
      together(depth_cases(), random_depth_cases(100), {"more rows than a wave of blocks", 20000, 2, 2, 64, 4}),
      [](const Problem& p) {
        const DepthReferences references = references_of(p);
        return check_forward(p, references).wrong + check_backward(p, references).wrong;
      },
      [](const Problem& a, const Problem& b, const auto& visit) {
        visit(a.out.words, b.out.words);
        visit(a.dq.words, b.dq.words);
        for (std::size_t i = 0; i < a.keys.size(); ++i) {
          visit(a.d_keys[i].words, b.d_keys[i].words);
          visit(a.d_values[i].words, b.d_values[i].words);
        }
      });
}

TEST_CASE("expert dispatch on the GPU agrees with the reference, and with itself to the bit", "[experts]") {
  using Problem = ExpertProblem<GpuMemory>;
  check_twice<Problem>(
      together(expert_cases(), random_expert_cases(100), {"more choices than a wave of blocks", 100000, 4, 16, 8}),
      [](const Problem& p) { return check_experts(p).wrong; },
      [](const Problem& a, const Problem& b, const auto& visit) {
        visit(a.place, b.place);
        visit(a.y, b.y);
        visit(a.d_rows, b.d_rows);
        visit(a.d_weights, b.d_weights);
      });
}

TEST_CASE("a small dispatch, for compute-sanitizer", "[experts][small]") {
  require_gpu();
  for (const ExpertCase& one : random_expert_cases(4)) {
    ExpertProblem<GpuMemory> problem(one);
    problem.run();
    CHECK(check_experts(problem).wrong == "");
  }
}
