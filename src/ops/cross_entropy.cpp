#include "ops/cross_entropy.h"

#include <algorithm>

#include <ATen/DeviceAccelerator.h>
#include <torch/torch.h>

#include "meristem_kernels/cross_entropy.h"
#include "ops/launch.h"
#include "ops/linear.h"
#include "ops/products.h"

namespace meristem::ops {
namespace {

CrossEntropy cross_entropy_reference(const at::Tensor& hidden_ND, const at::Tensor& weight_VD, const at::Tensor& targets_N,
                                     double logit_cap) {
  at::Tensor logits = at::linear(hidden_ND, weight_VD).to(accumulate_type(hidden_ND.scalar_type()));
  if (logit_cap > 0) logits = (logits / logit_cap).tanh() * logit_cap;
  const at::Tensor targets = targets_N.to(at::kLong);
  const at::Tensor losses = torch::nn::functional::cross_entropy(
      logits, targets.clamp_min(-1), torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-1).reduction(torch::kNone));
  return {losses.sum(), losses.detach()};
}

// Losses of one chunk; with_grad: logits_CV becomes d loss_sum / d logits.
void chunk_losses_library(at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C, bool with_grad) {
  const auto wide = accumulate_type(logits_CV.scalar_type());
  const at::Tensor valid = targets_C.ge(0), index = targets_C.clamp_min(0).to(at::kLong).unsqueeze(1);
  const at::Tensor log_probability = logits_CV.to(wide).log_softmax(1);
  losses_C.copy_(log_probability.gather(1, index).squeeze(1).neg().masked_fill(valid.logical_not(), 0));
  if (!with_grad) return;
  at::Tensor grad = log_probability.exp();
  grad.scatter_add_(1, index, at::full_like(index, -1, grad.options()));
  logits_CV.copy_(grad * valid.unsqueeze(1));
}

void chunk_losses_fused(at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C, bool with_grad) {
  const std::int64_t vocab = logits_CV.size(1);
  if (!logits_CV.is_cpu()) {
    kernels::cross_entropy({logits_CV.size(0), static_cast<int>(vocab), element_type(logits_CV)}, logits_CV.data_ptr(),
                           targets_C.data_ptr<std::int32_t>(), losses_C.data_ptr<float>(), with_grad, stream_of(logits_CV));
    return;
  }
  dispatch_cpu(logits_CV.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    parallel_rows(logits_CV.size(0), [&](std::int64_t begin, std::int64_t end) {
      kernels.cross_entropy(data_of<X>(logits_CV) + begin * vocab, data_of<std::int32_t>(targets_C) + begin,
                            data_of<float>(losses_C) + begin, end - begin, vocab, with_grad);
    });
  });
}

// How the products are made.
struct HeadProducts {
  bool ours = false;

  at::Tensor logits(const at::Tensor& hidden_ND, const at::Tensor& weight_VD) const {
    if (!ours) return at::mm(hidden_ND, weight_VD.t());
    const at::Tensor logits_NV = at::empty({hidden_ND.size(0), weight_VD.size(0)}, hidden_ND.options());
    multiply_rows(hidden_ND, weight_VD.unsqueeze(0), {hidden_ND.size(0)}, logits_NV);
    return logits_NV;
  }
  void hidden_gradient(const at::Tensor& d_logits_NV, const at::Tensor& weight_VD, at::Tensor& d_hidden_ND) const {
    if (!ours) {
      library_product(d_logits_NV, weight_VD, d_hidden_ND);
    } else {
      multiply_rows_back(d_logits_NV, weight_VD.unsqueeze(0), {d_logits_NV.size(0)}, d_hidden_ND);
    }
  }
  // One chunk of LibTorch's needs no running sum; several sum in fp32, or a bf16 sum would lose the later chunks' digits.
  void add_weight_gradient(const at::Tensor& d_logits_NV, const at::Tensor& hidden_ND, bool one_chunk, at::Tensor& d_weight_VD) const {
    if (ours) {
      add_outer_products(d_logits_NV, hidden_ND, {hidden_ND.size(0)}, d_weight_VD.unsqueeze(0));
    } else if (one_chunk) {
      d_weight_VD = at::empty({d_logits_NV.size(1), hidden_ND.size(1)}, d_logits_NV.options());
      library_product(d_logits_NV.t(), hidden_ND, d_weight_VD);
    } else {
      add_product(d_weight_VD, d_logits_NV, hidden_ND);
    }
  }
};

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden_ND,
                                                const at::Tensor& weight_VD, const at::Tensor& targets_N, bool with_grad, bool fused,
                                                double logit_cap, bool ours) {
    RECORD_FUNCTION("meristem::cross_entropy", {});
    const HeadProducts products{ours};
    const std::int64_t tokens = hidden_ND.size(0), chunk = cross_entropy_chunk(weight_VD.size(0), weight_VD.size(1), hidden_ND.device());
    const auto wide = accumulate_type(hidden_ND.scalar_type());
    at::Tensor losses = at::empty({tokens}, hidden_ND.options().dtype(wide)), d_hidden, d_weight;
    const bool one_chunk = tokens <= chunk;
    if (with_grad) {
      d_hidden = at::empty_like(hidden_ND);
      if (ours || !one_chunk) d_weight = at::zeros(weight_VD.sizes(), weight_VD.options().dtype(wide));
    }
    for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
      const std::int64_t count = std::min(chunk, tokens - begin);
      const at::Tensor hidden = hidden_ND.narrow(0, begin, count);
      at::Tensor logits = products.logits(hidden, weight_VD), part = losses.narrow(0, begin, count);
      const at::Tensor targets = targets_N.narrow(0, begin, count);
      at::Tensor slope;  // of the cap: 1 - tanh^2
      if (logit_cap > 0) {
        logits.div_(logit_cap).tanh_();
        if (with_grad) slope = 1 - logits.square();
        logits.mul_(logit_cap);
      }
      (fused ? chunk_losses_fused : chunk_losses_library)(logits, targets, part, with_grad);
      if (!with_grad) continue;
      if (slope.defined()) logits.mul_(slope);
      at::Tensor d_part = d_hidden.narrow(0, begin, count);
      products.hidden_gradient(logits, weight_VD, d_part);
      products.add_weight_gradient(logits, hidden, one_chunk, d_weight);
    }
    // Where the weight's gradient has its place, what is kept is its sum until backward brings it there.
    if (with_grad) {
      const bool stays = gradient_sum(weight_VD).defined();
      context->saved_data["stays"] = stays;
      context->save_for_backward({d_hidden, stays ? d_weight : d_weight.to(weight_VD.scalar_type()), weight_VD});
    }
    context->mark_non_differentiable({losses});
    return {losses.sum(), losses};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &scale = grads[0], &d_weight = saved[1];
    const auto scaled = [&](const at::Tensor& x) {
      return scale.is_cpu() && scale.item<double>() == 1 ? x : x * scale.to(x.scalar_type());
    };
    if (!context->saved_data["stays"].toBool()) {
      return {scaled(saved[0]), scaled(d_weight).to(saved[2].scalar_type()), {}, {}, {}, {}, {}};
    }
    const at::Tensor sum = gradient_sum(saved[2]);
    if (scale.is_cpu()) {
      sum.add_(d_weight, scale.item());
    } else {
      sum.addcmul_(d_weight, scale.to(sum.scalar_type()));  // nobody waits for the number
    }
    return {scaled(saved[0]), {}, {}, {}, {}, {}, {}};
  }
};

}  // namespace

std::int64_t cross_entropy_logits(std::int64_t free_bytes) {
  constexpr std::int64_t kFewest = 128 << 20, kMost = std::int64_t{1} << 30;
  return std::clamp(free_bytes / 8 / 2, kFewest, kMost);
}

namespace {

// The first call is in a first micro-batch, behind all blocks: what is free then is free in later ones too.
std::int64_t gpu_logits(at::Device device) {
  if (at::globalContext().deterministicAlgorithms()) return cross_entropy_logits(0);
  static const std::int64_t logits = cross_entropy_logits(static_cast<std::int64_t>(at::accelerator::getMemoryInfo(device.index()).first));
  return logits;
}

}  // namespace

std::int64_t cross_entropy_chunk(std::int64_t vocab, std::int64_t width, at::Device device) {
  // Elements held at once: 32 MiB in fp32; on a GPU 256 MiB and more in bf16, so that the matrix products have thousands of rows.
  const std::int64_t logits = device.is_cpu() ? 8 << 20 : gpu_logits(device);
  // Each chunk reads and writes the weight's gradient, as large as the logits of `width` tokens: of several times as many, or that is where
  // the time goes.
  const std::int64_t least = device.is_cpu() ? std::max<std::int64_t>(128, 2 * width) : 128;
  return std::max(least, logits / std::max<std::int64_t>(vocab, 1));
}

CrossEntropy linear_cross_entropy(const at::Tensor& hidden_ND, const at::Tensor& weight_VD, const at::Tensor& targets_N, Path path,
                                  double logit_cap, Path products) {
  TORCH_CHECK(hidden_ND.dim() == 2 && weight_VD.dim() == 2 && hidden_ND.size(1) == weight_VD.size(1), "cross_entropy: hidden ",
              hidden_ND.sizes(), " does not fit head ", weight_VD.sizes());
  TORCH_CHECK(targets_N.scalar_type() == at::kInt && targets_N.numel() == hidden_ND.size(0), "cross_entropy: one int32 target a token");
  if (path == Path::kReference) return cross_entropy_reference(hidden_ND, weight_VD, targets_N, logit_cap);
  const bool with_grad = at::GradMode::is_enabled() && (hidden_ND.requires_grad() || weight_VD.requires_grad());
  const bool ours = products == Path::kFused && multiplies(hidden_ND, weight_VD.size(0)) && multiplies(hidden_ND, weight_VD.size(1));
  const auto out =
      LinearCrossEntropy::apply(hidden_ND.contiguous(), weight_VD, targets_N, with_grad, path == Path::kFused, logit_cap, ours);
  return {out[0], out[1].detach()};
}

}  // namespace meristem::ops
