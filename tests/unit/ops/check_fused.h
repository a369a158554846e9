// A fused operator, output and gradients, against its reference.
#pragma once

#include <functional>
#include <vector>

#include "ops/cpu/row_kernels.h"
#include "ops/paths.h"
#include "support/catch.h"
#include "support/tolerance.h"

namespace meristem::test {

using ops::Path;
using Function = std::function<at::Tensor(const std::vector<at::Tensor>&, Path)>;

struct Evaluated {
  at::Tensor output;
  std::vector<at::Tensor> grads;
};

// Output and gradients of sum(output * weight) at `inputs` converted by `convert`.
inline Evaluated evaluate(const Function& f, const std::vector<at::Tensor>& inputs, at::ScalarType type, Path path,
                          const at::Tensor& weight, at::Device device) {
  std::vector<at::Tensor> leaves, used;
  for (const at::Tensor& input : inputs) {
    const bool gain = input.dim() == 1;  // norm gains stay in fp32 under bf16
    leaves.push_back(input.to(device, gain && type == torch::kBFloat16 ? torch::kFloat : type).detach().requires_grad_());
    used.push_back(leaves.back().clone());
  }
  Evaluated result;
  result.output = f(used, path);
  (result.output * weight.to(device, result.output.scalar_type())).sum().backward();
  for (const at::Tensor& leaf : leaves) result.grads.push_back(leaf.grad());
  return result;
}

// body() under every set of CPU kernels that this processor runs, from those without vector instructions up.
template <class Body>
void for_each_cpu_level(const Body& body) {
  const ops::cpu::RowKernels* levels[ops::cpu::kRowKernelLevels];
  ops::cpu::row_kernels_here(levels);
  for (int i = ops::cpu::kRowKernelLevels - 1; i >= 0; --i) {
    if (levels[i] == nullptr) continue;
    ops::cpu::use_row_kernels(*levels[i]);
    INFO("CPU kernels " << levels[i]->name);
    body();
  }
  ops::cpu::use_row_kernels(*levels[0]);
}

// The fused path on `device` against the reference in fp64 on the CPU, bounded by the reference in the fused path's precision.
inline void check_fused(const Function& f, const std::vector<at::Tensor>& inputs, at::Device device = at::kCPU) {
  // Inputs rounded to bf16 first: every precision starts from the same numbers.
  std::vector<at::Tensor> rounded;
  for (const at::Tensor& input : inputs) rounded.push_back(input.to(torch::kBFloat16).to(torch::kDouble));
  const at::Tensor weight = torch::randn_like(f(rounded, Path::kReference)).to(torch::kBFloat16).to(torch::kDouble);
  const Evaluated exact = evaluate(f, rounded, torch::kDouble, Path::kReference, weight, at::kCPU);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const Evaluated plain = evaluate(f, rounded, type, Path::kReference, weight, device);
    const auto check = [&] {
      const Evaluated fused = evaluate(f, rounded, type, Path::kFused, weight, device);
      const auto forward = compare(fused.output.cpu(), plain.output.cpu(), exact.output, 2);
      INFO("type " << c10::toString(type) << " forward error " << forward.error << " allowed " << forward.allowed);
      CHECK(forward.holds());
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const auto grad = compare(fused.grads[i].cpu(), plain.grads[i].cpu(), exact.grads[i], 3);
        INFO("gradient " << i << " error " << grad.error << " allowed " << grad.allowed);
        CHECK(grad.holds());
      }
    };
    if (device.is_cpu()) {
      for_each_cpu_level(check);
    } else {
      check();
    }
  }
}

}  // namespace meristem::test
