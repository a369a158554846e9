// The dense kernels' own source on the CPU layer.
#include "kernels/dense/adamw_on_cpu.h"
#include "kernels/dense/cross_entropy_on_cpu.h"
#include "kernels/dense/rms_norm_on_cpu.h"
#include "kernels/dense/rope_on_cpu.h"
#include "kernels/dense/swiglu_on_cpu.h"
#include "support/catch.h"

using namespace meristem::test;

namespace {

void check_problems(const std::vector<DenseProblem>& problems) {
  REQUIRE_FALSE(problems.empty());
  for (const DenseProblem& one : problems) {
    INFO(one.name);
    CHECK(one.faults() == "");
  }
}

}  // namespace

TEST_CASE("AdamW updates every element of every segment once, and touches nothing else") { check_problems(adamw_problems()); }
TEST_CASE("the squared norm agrees with a sum in order and repeats its bits, in any schedule") { check_problems(squared_norm_problems()); }
TEST_CASE("RMSNorm, forward and backward, with and without the residual addition") {
  check_problems(rms_norm_problems<std::uint16_t>());
  check_problems(rms_norm_problems<float>());
}
TEST_CASE("RoPE alone and behind QK norm, forward and backward, beside other columns") {
  check_problems(rope_problems<std::uint16_t>());
  check_problems(rope_problems<float>());
}
TEST_CASE("SwiGLU, forward and backward") {
  check_problems(swiglu_problems<std::uint16_t>());
  check_problems(swiglu_problems<float>());
}
TEST_CASE("cross-entropy: losses, and the gradient in the logits' place") {
  check_problems(cross_entropy_problems<std::uint16_t>());
  check_problems(cross_entropy_problems<float>());
}
