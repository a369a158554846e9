// The mixture of experts around the dispatch kernels, with the kernels' own source on the CPU layer, against the reference path, every
// access checked against the tensors' bounds.
#include <torch/torch.h>

#include "kernels/device_tensors.h"
#include "ops/experts.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

TEST_CASE("fused expert dispatch agrees with every expert on every token, values and gradients, however uneven the choice") {
  const test::TensorsAsDeviceMemory on_the_device;
  torch::manual_seed(5);
  constexpr std::int64_t kTokens = 23, kWidth = 24, kInner = 16, kExperts = 7;
  for (const std::int64_t k : {std::int64_t{1}, std::int64_t{3}, kExperts}) {
    for (const bool uneven : {false, true}) {
      std::vector<at::Tensor> inputs{torch::randn({kTokens, kWidth}), torch::randn({kExperts, 2 * kInner, kWidth}) / 5,
                                     torch::randn({kExperts, kWidth, kInner}) / 4};
      for (at::Tensor& input : inputs) input = input.to(at::kBFloat16);
      at::Tensor preference = torch::randn({kTokens, kExperts});
      // All tokens crowd into the first experts; the last ones receive none.
      if (uneven) preference += torch::arange(kExperts, 0, -1, torch::kFloat) * 100;
      const at::Tensor chosen = std::get<1>(preference.topk(k, 1)), weights = torch::rand({kTokens, k});
      const at::Tensor upstream = torch::randn({kTokens, kWidth}).to(at::kBFloat16);
      const auto run = [&](at::ScalarType type, Path path) {
        std::vector<at::Tensor> in;
        for (const at::Tensor& input : inputs) in.push_back(input.to(type).detach().requires_grad_());
        in.push_back(weights.to(type == at::kDouble ? at::kDouble : at::kFloat).detach().requires_grad_());
        const at::Tensor y = path == Path::kFused ? ops::cuda_expert_mixture(in[0], chosen, in[3], {in[1], in[2]}, Path::kReference)
                                                  : ops::expert_mixture(in[0], chosen, in[3], {in[1], in[2]}, path, Path::kReference);
        auto out = torch::autograd::grad({y}, in, {upstream.to(type)});
        out.push_back(y.detach());
        return out;
      };
      const auto exact = run(at::kDouble, Path::kReference), plain = run(at::kBFloat16, Path::kLibrary),
                 fused = run(at::kBFloat16, Path::kFused);
      for (std::size_t i = 0; i < fused.size(); ++i) {
        const auto bound = test::compare(fused[i], plain[i], exact[i], i + 1 == fused.size() ? 2 : 3);
        INFO("k " << k << (uneven ? ", uneven" : "") << ", result " << i << ", error " << bound.error << ", allowed " << bound.allowed);
        CHECK(exact[i].abs().max().item<double>() > 1e-3);
        CHECK(fused[i].scalar_type() == plain[i].scalar_type());
        CHECK(bound.holds());
      }
      if (uneven && k < kExperts) CHECK(fused[1][kExperts - 1].abs().max().item<double>() == 0);
    }
  }
}

TEST_CASE("tensors of any strides, and types that the kernels do not take") {
  const test::TensorsAsDeviceMemory on_the_device;
  const auto bf16 = [](at::IntArrayRef shape) { return torch::randn(shape).to(at::kBFloat16); };
  const at::Tensor x = bf16({9, 16}), gate_up = bf16({4, 16, 16}), down = bf16({4, 16, 8}), weights = torch::rand({9, 2});
  const at::Tensor chosen = std::get<1>(torch::randn({9, 4}).topk(2, 1));
  const auto turned = [](const at::Tensor& t) { return t.t().contiguous().t(); };
  const auto mix = [&](const at::Tensor& of_x, const at::Tensor& of_chosen, const at::Tensor& of_weights) {
    return ops::cuda_expert_mixture(of_x, of_chosen, of_weights, {gate_up, down}, Path::kReference);
  };
  CHECK(torch::equal(mix(turned(x), turned(chosen), turned(weights)), mix(x, chosen, weights)));
  CHECK_THROWS_WITH(mix(x.to(at::kFloat), chosen, weights), Catch::Contains("fused takes BFloat16"));
}
