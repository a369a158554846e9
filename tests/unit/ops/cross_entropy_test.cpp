#include "ops/cross_entropy.h"

#include "core/text.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

namespace {

struct Result {
  at::Tensor loss, losses, d_hidden, d_weight;
};

Result run(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, at::ScalarType type, Path path, double scale,
           double logit_cap = 0) {
  const at::Tensor h = hidden.to(type).detach().requires_grad_(), w = weight.to(type).detach().requires_grad_();
  const auto out = ops::linear_cross_entropy(h, w, targets, path, logit_cap);
  (out.loss_sum * scale).backward();
  return {out.loss_sum.detach(), out.losses_N, h.grad(), w.grad()};
}

}  // namespace

TEST_CASE("a GPU holds logits by the memory that is free, within bounds") {
  CHECK(ops::cross_entropy_logits(0) == 128 << 20);
  CHECK(ops::cross_entropy_logits(std::int64_t{2} << 30) == 128 << 20);
  CHECK(ops::cross_entropy_logits(std::int64_t{8} << 30) == 512 << 20);
  CHECK(ops::cross_entropy_logits(std::int64_t{100} << 30) == 1 << 30);
}

TEST_CASE("chunked cross-entropy agrees with the full logits, with ignored tokens and several chunks") {
  torch::manual_seed(1);
  // A vocabulary that makes chunks of 128 tokens: 300 tokens are three.
  const std::int64_t vocab = 70000, tokens = 300, width = 16;
  REQUIRE(ops::cross_entropy_chunk(vocab, width) == 128);
  const at::Tensor hidden = torch::randn({tokens, width}).to(torch::kBFloat16).to(torch::kDouble);
  const at::Tensor weight = torch::randn({vocab, width}).to(torch::kBFloat16).to(torch::kDouble);
  at::Tensor targets = torch::randint(vocab, {tokens}, torch::kInt);
  targets[3] = -1;
  targets[299] = -1;
  const Result exact = run(hidden, weight, targets, torch::kDouble, Path::kReference, 0.5);
  const Result chunked = run(hidden, weight, targets, torch::kDouble, Path::kLibrary, 0.5);
  CHECK(test::max_error(chunked.loss, exact.loss) < 1e-9);
  CHECK(test::max_error(chunked.losses, exact.losses) < 1e-11);
  CHECK(test::max_error(chunked.d_hidden, exact.d_hidden) < 1e-11);
  CHECK(test::max_error(chunked.d_weight, exact.d_weight) < 1e-11);
  CHECK(chunked.losses[3].item<double>() == 0);
  CHECK(chunked.d_hidden[3].abs().max().item<double>() == 0);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const Result plain = run(hidden, weight, targets, type, Path::kReference, 0.5);
    for (const Path path : {Path::kLibrary, Path::kFused}) {
      const Result result = run(hidden, weight, targets, type, path, 0.5);
      INFO(c10::toString(type) << " path " << static_cast<int>(path));
      CHECK(test::compare(result.losses, plain.losses, exact.losses, 2).holds());
      CHECK(test::compare(result.d_hidden, plain.d_hidden, exact.d_hidden, 3).holds());
      CHECK(test::compare(result.d_weight, plain.d_weight, exact.d_weight, 3).holds());
    }
  }
}

TEST_CASE("capped logits: losses and gradients of every path, over several chunks") {
  torch::manual_seed(2);
  const std::int64_t vocab = 70000, tokens = 150, width = 16;
  const at::Tensor hidden = torch::randn({tokens, width}), weight = torch::randn({vocab, width}),
                   targets = torch::randint(vocab, {tokens}, torch::kInt);
  const Result exact = run(hidden, weight, targets, torch::kDouble, Path::kReference, 0.5, 3);
  CHECK(test::max_error(run(hidden, weight, targets, torch::kDouble, Path::kReference, 0.5).loss, exact.loss) > 1);  // the cap matters
  const Result chunked = run(hidden, weight, targets, torch::kDouble, Path::kLibrary, 0.5, 3);
  CHECK(test::max_error(chunked.losses, exact.losses) < 1e-11);
  CHECK(test::max_error(chunked.d_hidden, exact.d_hidden) < 1e-11);
  CHECK(test::max_error(chunked.d_weight, exact.d_weight) < 1e-11);
  const Result plain = run(hidden, weight, targets, torch::kFloat, Path::kReference, 0.5, 3);
  for (const Path path : {Path::kLibrary, Path::kFused}) {
    const Result result = run(hidden, weight, targets, torch::kFloat, path, 0.5, 3);
    CHECK(test::compare(result.losses, plain.losses, exact.losses, 2).holds());
    CHECK(test::compare(result.d_hidden, plain.d_hidden, exact.d_hidden, 3).holds());
    CHECK(test::compare(result.d_weight, plain.d_weight, exact.d_weight, 3).holds());
  }
}

TEST_CASE("without gradients nothing is kept, and large logits stay finite") {
  torch::NoGradGuard no_grad;
  const at::Tensor hidden = torch::full({2, 4}, 100.0f), weight = torch::eye(4) * 50;
  const auto out = ops::linear_cross_entropy(hidden, weight, torch::tensor({0, 3}, torch::kInt), Path::kFused);
  CHECK(out.losses_N[0].item<float>() == Approx(std::log(4.0)).epsilon(1e-5));
  CHECK_FALSE(out.loss_sum.requires_grad());
}
