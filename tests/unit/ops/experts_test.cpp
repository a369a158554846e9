#include "ops/experts.h"

#include <torch/torch.h>

#include "support/catch.h"
#include "support/tolerance.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using ops::Path;

TEST_CASE("sorted groups give what every expert on every token gives, values and gradients, however uneven the choice") {
  torch::manual_seed(1);
  constexpr std::int64_t kTokens = 23, kWidth = 8, kInner = 6, kExperts = 7;
  for (const std::int64_t k : {1, 3}) {
    for (const bool uneven : {false, true}) {
      const auto parameter = [](at::IntArrayRef shape) { return torch::randn(shape, torch::kDouble).requires_grad_(); };
      const at::Tensor x = parameter({kTokens, kWidth}), gate_up = parameter({kExperts, 2 * kInner, kWidth}),
                       down = parameter({kExperts, kWidth, kInner});
      at::Tensor preference = torch::randn({kTokens, kExperts}, torch::kDouble);
      // All tokens crowd into the first experts; the last ones receive none.
      if (uneven) preference += torch::arange(kExperts, 0, -1, torch::kDouble) * 100;
      const at::Tensor chosen = std::get<1>(preference.topk(k, 1));
      const at::Tensor weights = torch::rand({kTokens, k}, torch::kDouble).requires_grad_();
      const at::Tensor upstream = torch::randn({kTokens, kWidth}, torch::kDouble);
      const auto run = [&](Path path) {
        const at::Tensor y = ops::expert_mixture(x, chosen, weights, {gate_up, down}, path, Path::kReference);
        auto out = torch::autograd::grad({(y * upstream).sum()}, {x, weights, gate_up, down});
        out.push_back(y.detach());
        return out;
      };
      const auto dense = run(Path::kReference), grouped = run(Path::kLibrary);
      for (std::size_t i = 0; i < dense.size(); ++i) {
        INFO("k " << k << (uneven ? ", uneven" : "") << ", result " << i);
        CHECK(test::max_error(grouped[i], dense[i]) < 1e-12 * (1 + dense[i].abs().max().item<double>()));
      }
      if (uneven) CHECK(grouped[2][kExperts - 1].abs().max().item<double>() == 0);
      const at::Tensor counts = ops::expert_counts(chosen, kExperts);
      CHECK(counts.sum().item<std::int64_t>() == kTokens * k);
      CHECK(counts[0].item<std::int64_t>() == (chosen == 0).sum().item<std::int64_t>());
    }
  }
}

TEST_CASE("our CPU kernels give what every expert on every token gives, with any vector instructions, odd widths and idle experts") {
  torch::manual_seed(2);
  constexpr std::int64_t kTokens = 41, kExperts = 6, kActive = 2;
  for (const auto& [width, inner] : {std::pair<std::int64_t, std::int64_t>{48, 20}, {9, 7}}) {
    at::Tensor preference = torch::randn({kTokens, kExperts});
    preference.select(1, kExperts - 1) -= 100;  // nobody's choice
    const at::Tensor chosen = std::get<1>(preference.topk(kActive, 1));
    INFO("width " << width);
    test::check_fused(
        [&](const std::vector<at::Tensor>& in, Path path) {
          const at::Tensor weights = in[3].to(in[3].scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
          return ops::expert_mixture(in[0], chosen, weights, {in[1], in[2]}, path, Path::kReference);
        },
        {torch::randn({kTokens, width}), torch::randn({kExperts, 2 * inner, width}), torch::randn({kExperts, width, inner}),
         torch::rand({kTokens, kActive})});
  }
}

TEST_CASE("the scores of the chosen experts are what at::gather gives, with its gradient") {
  torch::manual_seed(3);
  const at::Tensor scores = torch::randn({9, 5}).requires_grad_(), chosen = std::get<1>(torch::randn({9, 5}).topk(2, 1));
  const at::Tensor upstream = torch::randn({9, 2}), ours = ops::chosen_scores(scores, chosen), theirs = scores.gather(1, chosen);
  CHECK(torch::equal(ours, theirs));
  CHECK(torch::equal(torch::autograd::grad({ours}, {scores}, {upstream})[0], torch::autograd::grad({theirs}, {scores}, {upstream})[0]));
}
