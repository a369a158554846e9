// The operators whose fused path on a CUDA device is a kernel of ours, as autograd functions: against the reference on the CPU in fp64.
#include "kernels/on_gpu.h"
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using ops::Path;
using test::check_fused;

namespace {

const at::Device kGpuOfTest(at::kCUDA, 0);

ops::RopeTable rope_table_like(const at::Tensor& x) {
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return ops::make_rope_table(64, 32, 10000, torch::dtype(type).device(x.device()));
}

}  // namespace

TEST_CASE("fused operators on a GPU agree with the reference, output and gradients", "[gpu]") {
  test::require_gpu();
  torch::manual_seed(1);
  for (const int width : {33, 256, 2048}) {
    check_fused([](const auto& in, Path path) { return ops::rms_norm(in[0], in[1], 1e-5, path); },
                {torch::randn({65, width}), torch::randn({width})}, kGpuOfTest);
    check_fused([](const auto& in, Path path) { return ops::add_rms_norm(in[0], in[1], in[2], 1e-5, path).normed; },
                {torch::randn({65, width}), torch::randn({65, width}), torch::randn({width})}, kGpuOfTest);
    check_fused(
        [](const auto& in, Path path) {
          const auto both = ops::add_rms_norm(in[0], in[1], in[2], 1e-5, path);
          return both.sum + both.normed;
        },
        {torch::randn({65, width}), torch::randn({65, width}), torch::randn({width})}, kGpuOfTest);
    check_fused([](const auto& in, Path path) { return ops::swiglu(in[0], path); }, {torch::randn({33, 2 * width})}, kGpuOfTest);
  }
  const at::Tensor positions = torch::arange(40, torch::kInt).remainder(17);
  check_fused([&](const auto& in, Path path) { return ops::rope(in[0], 3, positions.to(in[0].device()), rope_table_like(in[0]), path); },
              {torch::randn({40, 5 * 32})}, kGpuOfTest);
  for (const std::int64_t normed : {32, 64}) {  // each query head by itself, both together
    check_fused(
        [&](const auto& in, Path path) {
          return ops::qk_norm_rope(in[0], {2, 1, in[1], in[2], 1e-5}, positions.to(in[0].device()), rope_table_like(in[0]), path, path);
        },
        {torch::randn({40, 4 * 32}), torch::randn({normed}), torch::randn({32})}, kGpuOfTest);
  }
}

TEST_CASE("the fused head and loss on a GPU agree with the reference", "[gpu]") {
  test::require_gpu();
  torch::manual_seed(2);
  const at::Tensor targets = torch::randint(-1, 1001, {70}, torch::kInt);
  check_fused([&](const auto& in,
                  Path path) { return ops::linear_cross_entropy(in[0], in[1], targets.to(in[0].device()), path).loss_sum.reshape({1, 1}); },
              {torch::randn({70, 48}), torch::randn({1001, 48})}, kGpuOfTest);
}

TEST_CASE("gradients of weights on a GPU are summed in fp32 inside the products", "[gpu]") {
  test::require_gpu();
  torch::manual_seed(5);
  const at::Tensor x = torch::randn({200, 64}).to(torch::kBFloat16), hidden = torch::randn({70, 64}).to(torch::kBFloat16);
  const at::Tensor targets = torch::randint(0, 96, {70}, torch::kInt);
  const auto sum_on = [&](at::Device device, at::ScalarType type) {
    torch::manual_seed(6);
    const at::Tensor weight = torch::randn({96, 64}).to(torch::kBFloat16).to(device, type).requires_grad_();
    weight.mutable_grad() = torch::ones({96, 64}, torch::dtype(torch::kFloat).device(device));
    ops::linear(x.to(device, type), weight, {}, Path::kLibrary).square().sum().backward();
    ops::linear_cross_entropy(hidden.to(device, type), weight, targets.to(device), Path::kLibrary).loss_sum.backward();
    return weight.grad().cpu().to(torch::kDouble);
  };
  const at::Tensor exact = sum_on(at::kCPU, at::kFloat), size = exact.abs().max();
  CHECK(((sum_on(kGpuOfTest, at::kBFloat16) - exact).abs().max() / size).item<double>() < 1e-2);  // bf16 outputs, squared, feed the product
  CHECK(((sum_on(kGpuOfTest, at::kFloat) - exact).abs().max() / size).item<double>() < 1e-5);
}

TEST_CASE("the fused gradient norm on a GPU is that of the CPU", "[gpu]") {
  test::require_gpu();
  torch::manual_seed(3);
  const at::Tensor flat = torch::randn({100003});
  const double want = flat.to(torch::kDouble).norm().item<double>();
  CHECK(ops::gradient_norm(flat.to(kGpuOfTest), Path::kFused).item<double>() == Approx(want).epsilon(1e-6));
}

TEST_CASE("LibTorch's flash attention on a GPU, asked once for all documents, agrees with the reference", "[gpu]") {
  test::require_gpu();
  torch::manual_seed(4);
  for (const ops::HeadShape& shape : {ops::HeadShape{4, 2, 64}, ops::HeadShape{2, 2, 32, 40}, ops::HeadShape{3, 1, 128}}) {
    for (const ops::Documents& documents : {ops::Documents{{100, 1, 33, 250}}, ops::Documents::uniform(3, 128)}) {
      std::int64_t tokens = 0;
      for (const std::int64_t length : documents.lengths) tokens += length;
      const at::Tensor qkv = torch::randn({tokens, shape.columns()}).to(torch::kBFloat16).to(torch::kDouble),
                       weight = torch::randn({tokens, shape.query_columns()}).to(torch::kBFloat16).to(torch::kDouble);
      const auto attend = [&](at::ScalarType type, Path path, at::Device device) {
        return test::evaluate([&](const auto& in, Path by) { return ops::causal_attention(in[0], shape, documents, by); }, {qkv}, type,
                              path, weight, device);
      };
      const auto exact = attend(torch::kDouble, Path::kReference, at::kCPU), plain = attend(torch::kBFloat16, Path::kReference, kGpuOfTest),
                 flash = attend(torch::kBFloat16, Path::kLibrary, kGpuOfTest);
      CHECK(test::compare(flash.output.cpu(), plain.output.cpu(), exact.output, 2).holds());
      CHECK(test::compare(flash.grads[0].cpu(), plain.grads[0].cpu(), exact.grads[0], 3).holds());
    }
  }
}
