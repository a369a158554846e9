// RMSNorm, RoPE, SwiGLU, cross-entropy, experts, AdamW.
#include <fmt/format.h>

#include "bench/harness.h"
#include "ops/adamw.h"
#include "ops/cross_entropy.h"
#include "ops/experts.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace meristem::bench {
namespace {

// The head and the loss as a user of PyTorch writes them.
at::Tensor eager_loss(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  return at::cross_entropy_loss(at::linear(hidden, weight).to(torch::kFloat), targets, {}, at::Reduction::Sum);
}

}  // namespace

void bench_rms_norm(Bench& bench) {
  const ops::Path path = our_path("rms_norm", bench);
  const std::int64_t rows = bench.settings().tiny ? 32 : 16384;
  for (const std::int64_t width : bench.settings().tiny ? std::vector<std::int64_t>{64} : std::vector<std::int64_t>{768, 2048, 4096}) {
    const at::Tensor x = torch::randn({rows, width}, bench.bf16()).requires_grad_(), dy = torch::randn({rows, width}, bench.bf16());
    const at::Tensor w = torch::randn({width}, bench.fp32()).requires_grad_(), w_half = w.detach().to(torch::kBFloat16);
    const at::Tensor y = ops::rms_norm(x, w, 1e-5, path);
    std::vector<Program> forward{{our_name(path), [&] { ops::rms_norm(x, w, 1e-5, path); }}};
    std::vector<Program> backward{{our_name(path), [&] { run_backward(y, {x, w}, dy); }}};
    at::Tensor rstd;
    if (x.is_cuda()) {
      const at::Tensor plain = x.detach();
      rstd = std::get<1>(at::_fused_rms_norm(plain, {width}, w_half, 1e-5));
      forward.push_back({"_fused_rms_norm", [=] { at::_fused_rms_norm(plain, {width}, w_half, 1e-5); }});
      backward.push_back({"_fused_rms_norm", [=] { at::_fused_rms_norm_backward(dy, plain, {width}, rstd, w_half, {true, true}); }});
    }
    const auto elements = static_cast<double>(rows * width);
    bench.compare("rms_norm_forward", fmt::format("{} x {}", rows, width), forward, {{"bytes", 4 * elements}});
    bench.compare("rms_norm_backward", fmt::format("{} x {}", rows, width), backward, {{"bytes", 6 * elements}});
  }
}

void bench_rope(Bench& bench) {
  const ops::Path path = our_path("rope", bench);
  const std::int64_t tokens = bench.settings().tiny ? 32 : 16384, heads = bench.settings().tiny ? 2 : 32, head_dim = 64;
  const at::Tensor x = torch::randn({tokens, (heads + heads / 2) * head_dim}, bench.bf16());  // queries and keys, then values
  const at::Tensor positions = torch::arange(tokens, bench.fp32().dtype(torch::kInt)).remainder(2048).to(torch::kInt);
  const ops::RopeTable table = ops::make_rope_table(2048, head_dim, 10000, bench.fp32());
  bench.compare("rope_forward", fmt::format("{} x {} x {}", tokens, heads, head_dim),
                {{our_name(path), [&] { ops::rope(x, heads, positions, table, path); }},
                 {"reference", [&] { ops::rope(x, heads, positions, table, ops::Path::kReference); }}},
                {{"bytes", 4.0 * static_cast<double>(tokens * heads * head_dim)}});
}

void bench_swiglu(Bench& bench) {
  const ops::Path path = our_path("swiglu", bench);
  const std::int64_t tokens = bench.settings().tiny ? 32 : 16384, inner = bench.settings().tiny ? 64 : 5504;
  const at::Tensor x = torch::randn({tokens, 2 * inner}, bench.bf16()).requires_grad_(), dy = torch::randn({tokens, inner}, bench.bf16());
  const at::Tensor ours = ops::swiglu(x, path), reference = ops::swiglu(x, ops::Path::kReference);
  const auto name = fmt::format("{} x {}", tokens, inner);
  bench.compare("swiglu_forward", name,
                {{our_name(path), [&] { ops::swiglu(x, path); }}, {"reference", [&] { ops::swiglu(x, ops::Path::kReference); }}},
                {{"bytes", 6.0 * static_cast<double>(tokens * inner)}});
  bench.compare("swiglu_backward", name,
                {{our_name(path), [&] { run_backward(ours, {x}, dy); }}, {"reference", [&] { run_backward(reference, {x}, dy); }}},
                {{"bytes", 10.0 * static_cast<double>(tokens * inner)}});
}

void bench_cross_entropy(Bench& bench) {
  const bool tiny = bench.settings().tiny;
  const ops::Path path = our_path("cross_entropy", bench);
  const std::int64_t tokens = tiny ? 64 : 16384, vocab = tiny ? 128 : 50304;
  for (const std::int64_t width : tiny ? std::vector<std::int64_t>{64} : std::vector<std::int64_t>{768, 2048}) {
    const at::Tensor hidden = torch::randn({tokens, width}, bench.bf16()).requires_grad_();
    const at::Tensor weight = (torch::randn({vocab, width}, bench.bf16()) * 0.02).requires_grad_();
    const at::Tensor targets = torch::randint(vocab, {tokens}, bench.fp32().dtype(torch::kInt)), long_targets = targets.to(torch::kLong);
    const auto ours = [&] { torch::autograd::grad({ops::linear_cross_entropy(hidden, weight, targets, path).loss_sum}, {hidden, weight}); };
    const auto eager = [&] { torch::autograd::grad({eager_loss(hidden, weight, long_targets)}, {hidden, weight}); };
    const auto library = [&] {
      torch::autograd::grad({ops::linear_cross_entropy(hidden, weight, targets, ops::Path::kLibrary).loss_sum}, {hidden, weight});
    };
    const auto logits = static_cast<double>(tokens * vocab);
    nlohmann::json fields{{"bytes", 12 * logits}, {"flops", 6 * static_cast<double>(width) * logits}};
    fields["peak_bytes"][our_name(path)] = bench.peak_bytes(ours);
    fields["peak_bytes"]["eager"] = bench.peak_bytes(eager);
    bench.compare("cross_entropy", fmt::format("{} x {} x {}, forward and backward", tokens, width, vocab),
                  {{our_name(path), ours}, {"eager", eager}, {"chunks of ATen", library}}, fields);
  }
}

// Sorting, moving and summing are ours; the products are the library's in both.
void bench_experts(Bench& bench) {
  const bool tiny = bench.settings().tiny;
  const ops::Path path = our_path("experts", bench);
  const std::int64_t tokens = tiny ? 32 : 16384, width = tiny ? 64 : 1024, inner = tiny ? 64 : 512, experts = tiny ? 4 : 16, chosen = 4;
  const auto matrix = [&](at::IntArrayRef sizes) { return (torch::randn(sizes, bench.bf16()) * 0.02).requires_grad_(); };
  const at::Tensor x = torch::randn({tokens, width}, bench.bf16()).requires_grad_(), dy = torch::randn({tokens, width}, bench.bf16());
  const at::Tensor scores = torch::rand({tokens, experts}, bench.fp32());
  const auto [weights, choice] = scores.topk(chosen, 1);
  const ops::ExpertWeights all{matrix({experts, 2 * inner, width}), matrix({experts, width, inner})};
  const auto mixture = [&](ops::Path by) { return ops::expert_mixture(x, choice, weights, all, by, our_path("swiglu", bench)); };
  const at::Tensor ours = mixture(path), theirs = mixture(ops::Path::kLibrary);
  const auto rows = static_cast<double>(tokens * chosen);
  const double flops = 6 * rows * static_cast<double>(width * inner);
  const auto name = fmt::format("{} of {} experts, {} x {} x {}", chosen, experts, tokens, width, inner);
  const std::vector<at::Tensor> inputs{x, all.gate_up, all.down};
  bench.compare("experts_forward", name, {{our_name(path), [&] { mixture(path); }}, {"library", [&] { mixture(ops::Path::kLibrary); }}},
                {{"flops", flops}, {"bytes", 8 * rows * static_cast<double>(width)}});
  bench.compare("experts_backward", name,
                {{our_name(path), [&] { run_backward(ours, inputs, dy); }}, {"library", [&] { run_backward(theirs, inputs, dy); }}},
                {{"flops", 2 * flops}, {"bytes", 16 * rows * static_cast<double>(width)}});
}

void bench_adamw(Bench& bench) {
  const ops::Path path = our_path("adamw", bench);
  const std::int64_t count = bench.settings().tiny ? 4096 : 124 << 20;
  const auto zeros = [&] { return torch::zeros({count}, bench.fp32()); };
  const ops::AdamwTensors flat{torch::randn({count}, bench.fp32()),
                               torch::randn({count}, bench.fp32()),
                               zeros(),
                               zeros(),
                               torch::zeros({count}, bench.bf16()),
                               torch::zeros({1}, bench.fp32().dtype(torch::kLong))};
  const std::vector<ops::AdamwRange> whole{{0, 0, 0, count, 0}};
  const at::Tensor lr = torch::full({}, 1e-4, bench.fp32()), scale = torch::full({}, 1e-3, bench.fp32());
  bench.compare_with_copy("adamw", fmt::format("{} parameters", count),
                          {our_name(path), [&] { ops::adamw_step(flat, whole, lr, scale, {}, path); }}, 30.0 * static_cast<double>(count));
  bench.compare("adamw_step", fmt::format("{} parameters", count),
                {{our_name(path), [&] { ops::adamw_step(flat, whole, lr, scale, {}, path); }},
                 {"_fused_adamw_ and a copy", [&] { ops::adamw_step(flat, whole, lr, scale, {}, ops::Path::kLibrary); }}},
                {{"bytes", 30.0 * static_cast<double>(count)}});
  bench.compare_with_copy("gradient_norm", fmt::format("{} parameters", count),
                          {our_name(path), [&] { ops::gradient_norm(flat.grad, path); }}, 4.0 * static_cast<double>(count));
}

}  // namespace meristem::bench
