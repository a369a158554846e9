#include "ops/linear.h"

#include <algorithm>

#include <torch/torch.h>

#include "ops/few_rows.h"
#include "ops/launch.h"
#include "ops/products.h"
#include "ops/strands.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of fewer rows packing the weight costs more than the product.
constexpr std::int64_t kFewestRows = 32;

at::Tensor dense_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

// dy^T x: added to the weight's sum, and then undefined; else of the weight's type.
at::Tensor weight_gradient(const at::Tensor& dy_NO, const at::Tensor& x_NI, const at::Tensor& weight_OI, bool ours) {
  const at::Tensor sum = gradient_sum(weight_OI);
  const GroupEnds all{x_NI.size(0)};
  if (sum.defined()) {
    ours ? add_outer_products(dy_NO, x_NI, all, sum.unsqueeze(0)) : add_product(sum, dy_NO, x_NI);
    return {};
  }
  const at::Tensor d_weight = ours && weight_OI.scalar_type() == at::kFloat ? at::zeros_like(weight_OI) : at::empty_like(weight_OI);
  if (!ours) {
    library_product(dy_NO.t(), x_NI, d_weight);
    return d_weight;
  }
  add_outer_products(dy_NO, x_NI, all, d_weight.unsqueeze(0));
  return d_weight;
}

// ours: by our CPU kernels, else by LibTorch's.
class SummedLinear : public torch::autograd::Function<SummedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight_OI, bool ours) {
    RECORD_FUNCTION("meristem::linear", {});
    const at::Tensor x_NI = dense_rows(x);
    context->save_for_backward({x_NI, weight_OI});
    context->saved_data["ours"] = ours;
    if (!ours) return at::mm(x_NI, weight_OI.t());
    const at::Tensor y_NO = at::empty({x_NI.size(0), weight_OI.size(0)}, x_NI.options());
    multiply_rows(x_NI, weight_OI.unsqueeze(0), {x_NI.size(0)}, y_NO);
    return y_NO;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x_NI = saved[0], &weight_OI = saved[1], dy_NO = dense_rows(grads[0]);
    const bool ours = context->saved_data["ours"].toBool();
    at::Tensor dx;
    if (context->needs_input_grad(0)) {
      dx = at::empty(x_NI.sizes(), x_NI.options());
      ours ? multiply_rows_back(dy_NO, weight_OI.unsqueeze(0), {dy_NO.size(0)}, dx) : library_product(dy_NO, weight_OI, dx);
    }
    return {dx, context->needs_input_grad(1) ? weight_gradient(dy_NO, x_NI, weight_OI, ours) : at::Tensor(), {}};
  }
};

// LibTorch's product copies its matrices first where it has several threads. Each thread's rows of the result by themselves need no copy,
// which saves a backward pass's small products a fifth to a third of their time (docs/results/cpu.md). Measured with two threads; of many,
// each would read all of b.
constexpr int kMostThreads = 4;
constexpr std::int64_t kFewestRowsOfThread = 32;

bool is_split(const at::Tensor& c) {
  const int threads = at::get_num_threads();
  return c.is_cpu() && c.scalar_type() == at::kFloat && threads > 1 && threads <= kMostThreads &&
         c.size(0) >= threads * kFewestRowsOfThread;
}

// product(a, c) for all of their rows: c = or += a b.
template <class Product>
void by_rows(const at::Tensor& a, const at::Tensor& c, const Product& product) {
  if (!is_split(c)) return product(a, c);
  parallel_rows(c.size(0), [&](std::int64_t begin, std::int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;  // which is on in another thread
    product(a.narrow(0, begin, end - begin), c.narrow(0, begin, end - begin));
  });
}

class FusedEmbedding : public torch::autograd::Function<FusedEmbedding> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight_VD, const at::Tensor& tokens_N) {
    context->save_for_backward({weight_VD, tokens_N});
    return at::embedding(weight_VD, tokens_N);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &weight_VD = saved[0], &tokens_N = saved[1], sum = gradient_sum(weight_VD);
    if (!sum.defined()) return {at::embedding_dense_backward(grads[0], tokens_N, weight_VD.size(0), -1, false), at::Tensor()};
    const at::Tensor dy_ND = grads[0].contiguous(), tokens = tokens_N.to(at::kLong).contiguous();
    const auto* token = tokens.data_ptr<std::int64_t>();
    const std::int64_t count = tokens.numel(), width = weight_VD.size(1);
    // Summed by itself first: token by token on top of what is there would lose digits.
    const at::Tensor own = at::zeros(sum.sizes(), sum.options());
    // Each thread has some of the columns, in whole cache lines, and goes through all tokens in order.
    constexpr std::int64_t kLine = 32;
    dispatch_cpu(dy_ND.scalar_type(), [&](const auto& kernels, auto type) {
      const auto* dy = data_of<decltype(type)>(dy_ND);
      parallel_rows((width + kLine - 1) / kLine, [&](std::int64_t first, std::int64_t last) {
        const std::int64_t begin = first * kLine, columns = std::min(width, last * kLine) - begin;
        for (std::int64_t n = 0; n < count; ++n) {
          kernels.accumulate(own.data_ptr<float>() + token[n] * width + begin, dy + n * width + begin, columns);
        }
      });
    });
    sum.add_(own);
    return {at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor gradient_sum(const at::Tensor& parameter) {
  if (!parameter.is_leaf()) return {};
  const at::Tensor& sum = parameter.grad();
  const bool takes = sum.defined() && sum.scalar_type() == at::kFloat && sum.is_contiguous() && sum.sizes() == parameter.sizes();
  return takes ? of_strand(sum) : at::Tensor();
}

void library_product(const at::Tensor& a_MK, const at::Tensor& b_KN, const at::Tensor& c_MN) {
  by_rows(a_MK, c_MN, [&](const at::Tensor& a, at::Tensor c) { at::mm_out(c, a, b_KN); });
}

void add_product(const at::Tensor& sum_OI, const at::Tensor& dy_NO, const at::Tensor& x_NI) {
  at::Tensor sum = sum_OI;
  if (sum.scalar_type() == x_NI.scalar_type()) {
    by_rows(dy_NO.t(), sum, [&](const at::Tensor& dy, at::Tensor part) { part.addmm_(dy, x_NI); });
  } else if (sum.is_cuda()) {
    at::addmm_out(sum, sum, dy_NO.t(), x_NI, at::kFloat);
  } else {
    sum.add_(at::mm(dy_NO.t(), x_NI));
  }
}

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O, Path path) {
  if (are_few_rows(x_NI, weight_OI)) return multiply_few_rows(x_NI, weight_OI, bias_O);
  const std::int64_t out = weight_OI.size(0), in = weight_OI.size(1);
  const bool ours = path == Path::kFused && x_NI.size(0) >= kFewestRows && multiplies(x_NI, in) && multiplies(x_NI, out);
  if (ours || (path != Path::kReference && at::GradMode::is_enabled() && gradient_sum(weight_OI).defined())) {
    const at::Tensor y_NO = SummedLinear::apply(x_NI, weight_OI, ours);
    return bias_O.defined() ? y_NO + bias_O : y_NO;
  }
  return bias_O.defined() ? at::linear(x_NI, weight_OI, bias_O) : at::linear(x_NI, weight_OI);
}

at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_N, Path path) {
  const bool ours = path == Path::kFused && multiplies(weight_VD, 0);
  return ours ? FusedEmbedding::apply(weight_VD, tokens_N) : at::embedding(weight_VD, tokens_N);
}

ProductWorkspace product_workspace(std::int64_t rows, std::int64_t in, std::int64_t out, std::int64_t groups, at::ScalarType compute,
                                   std::int64_t threads) {
  ProductWorkspace workspace;
  dispatch_cpu(compute, [&](const auto& kernels, auto) {
    const std::int64_t used = std::clamp<std::int64_t>(rows, 1, groups), each = (rows + used - 1) / used;  // about evenly shared out
    const std::int64_t most = kPackedBytes * threads;
    const auto at_once = [&](std::int64_t bytes) {
      return a_thread_each(used, threads) ? threads : std::clamp<std::int64_t>(most / std::max<std::int64_t>(1, bytes), 1, used);
    };
    const std::int64_t weight = std::max(kernels.packed_bytes(out, in), kernels.packed_bytes(in, out)), part = outer_rows(each, out, in),
                       entering = kernels.packed_bytes(in, part), leaving = kernels.packed_bytes(out, part),
                       together = part < each && !a_thread_each(used, threads) ? 1 : at_once(entering + leaving);
    workspace.right = static_cast<double>(std::max(at_once(weight) * weight, together * entering));
    workspace.left = static_cast<double>(together * leaving);
    workspace.thread = static_cast<double>(kernels.matrix_scratch);
  });
  return workspace;
}

}  // namespace meristem::ops
