#include "ops/experts.h"

#include <cstring>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "meristem_kernels/experts.h"
#include "ops/few_rows.h"
#include "ops/launch.h"
#include "ops/linear.h"
#include "ops/products.h"
#include "ops/swiglu.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// 1. A linear map for each group of rows, without padding.

// M rows sorted by group; group e holds rows [ends[e-1], ends[e]).
struct Groups {
  at::Tensor ends_E;               // int32, cumulative, on the rows' device
  std::vector<std::int64_t> ends;  // the same on the host; empty where one operator takes all groups
};

bool one_operator_for_all(const at::Tensor& x) { return x.is_cuda() && x.scalar_type() == at::kBFloat16; }

// at::_grouped_mm wants rows of whole 16 bytes; asked of the widths, which are the strides.
void check_widths(const at::Tensor& weight_EOI) {
  TORCH_CHECK(weight_EOI.size(1) % 8 == 0 && weight_EOI.size(2) % 8 == 0, "experts on CUDA in bf16: widths must be multiples of 8, got ",
              weight_EOI.sizes());
}

// body(group, first row, rows) for every group that has any. On the CPU groups run beside each other, each product on one thread: products
// of a few rows are too small to be shared out, and waiting for the other threads after each would cost more than the products.
template <class Body>
void for_groups(const std::vector<std::int64_t>& ends, bool on_cpu, const Body& body) {
  const auto groups = static_cast<std::int64_t>(ends.size());
  const auto some = [&](std::int64_t first, std::int64_t last) {
    const at::AutoDispatchBelowAutograd plain;  // worker threads do not inherit the caller's state
    for (std::int64_t e = first; e < last; ++e) {
      const std::int64_t begin = e == 0 ? 0 : ends[static_cast<std::size_t>(e) - 1], end = ends[static_cast<std::size_t>(e)];
      if (end > begin) body(e, begin, end - begin);
    }
  };
  if (on_cpu) {
    at::parallel_for(0, groups, 1, some);
  } else {
    some(0, groups);
  }
}

class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_MI, const at::Tensor& weight_EOI, const at::Tensor& ends_E,
                            const GroupEnds& ends, bool ours) {
    RECORD_FUNCTION("meristem::grouped_linear", {});
    context->save_for_backward({x_MI, weight_EOI, ends_E});
    context->saved_data["ends"] = ends;
    context->saved_data["ours"] = ours;
    if (ends.empty()) {
      check_widths(weight_EOI);
      return at::_grouped_mm(x_MI, weight_EOI.transpose(1, 2), ends_E);
    }
    at::Tensor y_MO = at::empty({x_MI.size(0), weight_EOI.size(1)}, x_MI.options());
    if (ours) {
      multiply_rows(x_MI, weight_EOI, ends, y_MO);
      return y_MO;
    }
    for_groups(ends, x_MI.is_cpu(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
      at::Tensor y = y_MO.narrow(0, begin, count);
      const at::Tensor x = x_MI.narrow(0, begin, count), weight = weight_EOI[e];
      if (are_few_rows(x, weight)) {
        multiply_few_rows_out(x, weight, y);
      } else {
        at::mm_out(y, x, weight.t());
      }
    });
    return y_MO;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x_MI = saved[0], &weight_EOI = saved[1], &ends_E = saved[2];
    const std::vector<std::int64_t> ends = context->saved_data["ends"].toIntVector();
    const at::Tensor dy_MO = grads[0].contiguous();
    if (ends.empty()) return {at::_grouped_mm(dy_MO, weight_EOI, ends_E), at::_grouped_mm(dy_MO.t(), x_MI, ends_E), {}, {}, {}};
    at::Tensor dx_MI = at::empty_like(x_MI), dw_EOI;
    if (context->saved_data["ours"].toBool()) {
      multiply_rows_back(dy_MO, weight_EOI, ends, dx_MI);
      const at::Tensor sum_EOI = gradient_sum(weight_EOI);
      if (!sum_EOI.defined()) dw_EOI = at::zeros_like(weight_EOI);
      add_outer_products(dy_MO, x_MI, ends, sum_EOI.defined() ? sum_EOI : dw_EOI);
      return {dx_MI, dw_EOI, {}, {}, {}};
    }
    dw_EOI = at::zeros_like(weight_EOI);
    for_groups(ends, x_MI.is_cpu(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
      const at::Tensor dy = dy_MO.narrow(0, begin, count);
      at::Tensor dx = dx_MI.narrow(0, begin, count), dw = dw_EOI[e];
      at::mm_out(dx, dy, weight_EOI[e]);
      at::mm_out(dw, dy.t(), x_MI.narrow(0, begin, count));
    });
    return {dx_MI, dw_EOI, {}, {}, {}};
  }
};

// ends_E as Groups has them. like: a tensor of the rows' type and device, which decide what will run.
Groups groups_ending_at(const at::Tensor& ends_E, const at::Tensor& like) {
  Groups groups{ends_E, {}};
  if (one_operator_for_all(like)) return groups;
  const at::Tensor host = ends_E.to(at::kLong).cpu();
  groups.ends.assign(host.data_ptr<std::int64_t>(), host.data_ptr<std::int64_t>() + host.numel());
  return groups;
}

// x_MI [M, I], weight_EOI [E, O, I] -> [M, O]: row m times its group's matrix, transposed. Differentiable in both; groups without a row
// receive a zero gradient. ours: by our CPU kernels.
at::Tensor grouped_linear(const at::Tensor& x_MI, const at::Tensor& weight_EOI, const Groups& groups, bool ours = false) {
  return GroupedLinear::apply(x_MI, weight_EOI, groups.ends_E, groups.ends, ours);
}

// 2. Sorted by LibTorch.

// The rows of x that the sorted choices name. order_M: the choice (n*k + j) that stands at each sorted place; place_M: its inverse.
class GatherTokens : public torch::autograd::Function<GatherTokens> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_ND, const at::Tensor& order_M, const at::Tensor& place_M) {
    const std::int64_t k = order_M.size(0) / x_ND.size(0);
    context->save_for_backward({place_M});
    context->saved_data["k"] = k;
    return x_ND.index_select(0, order_M.div(k, "floor"));
  }
  // A token's k gradients are summed side by side, so that no two threads add to one row.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor place_M = context->get_saved_variables()[0];
    const std::int64_t width = grads[0].size(1), k = context->saved_data["k"].toInt();
    return {grads[0].index_select(0, place_M).view({-1, k, width}).sum(1), {}, {}};
  }
};

// Back in the tokens' order: [M, D] -> [M, D].
class UnsortRows : public torch::autograd::Function<UnsortRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y_MD, const at::Tensor& order_M, const at::Tensor& place_M) {
    context->save_for_backward({order_M});
    return y_MD.index_select(0, place_M);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return {grads[0].index_select(0, context->get_saved_variables()[0]), {}, {}};
  }
};

at::Tensor sorted_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk, const ExpertWeights& experts,
                          Path swiglu_path) {
  const std::int64_t width = x_ND.size(1), k = chosen_Nk.size(1);
  const at::Tensor order_M = chosen_Nk.reshape(-1).argsort(/*stable=*/true), place_M = order_M.argsort();
  const Groups groups = groups_ending_at(expert_counts(chosen_Nk, experts.gate_up.size(0)).cumsum(0).to(at::kInt), x_ND);
  const at::Tensor inner = swiglu(grouped_linear(GatherTokens::apply(x_ND, order_M, place_M), experts.gate_up, groups), swiglu_path);
  const at::Tensor y_MD = UnsortRows::apply(grouped_linear(inner, experts.down, groups), order_M, place_M);
  return at::matmul(weights_Nk.unsqueeze(1), y_MD.view({-1, k, width}).to(weights_Nk.scalar_type())).squeeze(1).to(x_ND.scalar_type());
}

// 3. Sorted, moved and summed by our own kernels: on a GPU nothing that the host would have to wait for.

kernels::ExpertShape expert_shape(const at::Tensor& place_Nk, std::int64_t experts, std::int64_t width) {
  return {static_cast<int>(place_Nk.size(0)), static_cast<int>(place_Nk.size(1)), static_cast<int>(experts), static_cast<int>(width)};
}

// The number of experts does not matter once the choices are sorted; k is the fewest.
kernels::ExpertShape rows_shape(const at::Tensor& place_Nk, std::int64_t width) { return expert_shape(place_Nk, place_Nk.size(1), width); }

struct SortedChoices {
  at::Tensor place_Nk, ends_E;  // int32: each choice's row, and one behind each expert's last row
};

// Who sorts and moves rows: kernels in CUDA, or those of the CPU. weights may be undefined: ones.
struct RowMovers {
  SortedChoices (*sort)(const at::Tensor& chosen_Nk, std::int64_t experts);
  void (*gather)(const at::Tensor& x_ND, const at::Tensor& place_Nk, const at::Tensor& rows_MD);
  void (*combine)(const at::Tensor& rows_MD, const at::Tensor& place_Nk, const at::Tensor& weights_Nk, const at::Tensor& y_ND);
  void (*combine_backward)(const at::Tensor& dy_ND, const at::Tensor& rows_MD, const at::Tensor& place_Nk, const at::Tensor& weights_Nk,
                           const at::Tensor& d_rows_MD, const at::Tensor& d_weights_Nk);
};

SortedChoices empty_choices(const at::Tensor& chosen_Nk, std::int64_t experts) {
  const auto numbers = chosen_Nk.options().dtype(at::kInt);
  return {at::empty_like(chosen_Nk, numbers, at::MemoryFormat::Contiguous), at::empty({experts}, numbers)};
}

const RowMovers kCudaMovers{
    [](const at::Tensor& chosen_Nk, std::int64_t experts) {
      const SortedChoices sorted = empty_choices(chosen_Nk, experts);
      const kernels::ExpertShape shape = expert_shape(sorted.place_Nk, experts, 8);
      const at::Tensor scratch = at::empty({kernels::expert_sort_scratch(shape)}, sorted.ends_E.options());
      kernels::expert_sort(shape, chosen_Nk.contiguous().data_ptr<std::int64_t>(), scratch.data_ptr<std::int32_t>(),
                           sorted.place_Nk.data_ptr<std::int32_t>(), sorted.ends_E.data_ptr<std::int32_t>(), stream_of(chosen_Nk));
      return sorted;
    },
    [](const at::Tensor& x, const at::Tensor& place, const at::Tensor& rows) {
      kernels::expert_gather(rows_shape(place, x.size(1)), words(x), place.data_ptr<std::int32_t>(), words(rows), stream_of(x));
    },
    [](const at::Tensor& rows, const at::Tensor& place, const at::Tensor& weights, const at::Tensor& y) {
      kernels::expert_combine(rows_shape(place, rows.size(1)), words(rows), place.data_ptr<std::int32_t>(),
                              static_cast<const float*>(data_or_null(weights)), words(y), stream_of(y));
    },
    [](const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& place, const at::Tensor& weights, const at::Tensor& d_rows,
       const at::Tensor& d_weights) {
      kernels::expert_combine_backward(rows_shape(place, rows.size(1)), words(dy), words(rows), place.data_ptr<std::int32_t>(),
                                       weights.data_ptr<float>(), words(d_rows), d_weights.data_ptr<float>(), stream_of(rows));
    }};

const RowMovers kCpuMovers{[](const at::Tensor& chosen_Nk, std::int64_t experts) {
                             const SortedChoices sorted = empty_choices(chosen_Nk, experts);
                             const at::Tensor chosen = chosen_Nk.contiguous();
                             const auto* expert = chosen.data_ptr<std::int64_t>();
                             auto *place = sorted.place_Nk.data_ptr<std::int32_t>(), *ends = sorted.ends_E.data_ptr<std::int32_t>();
                             std::fill_n(ends, experts, 0);
                             for (std::int64_t m = 0; m < chosen.numel(); ++m) ++ends[expert[m]];
                             std::vector<std::int32_t> next(static_cast<std::size_t>(experts));
                             std::exclusive_scan(ends, ends + experts, next.begin(), 0);
                             for (std::int64_t m = 0; m < chosen.numel(); ++m) place[m] = next[static_cast<std::size_t>(expert[m])]++;
                             std::copy(next.begin(), next.end(), ends);
                             return sorted;
                           },
                           [](const at::Tensor& x, const at::Tensor& place, const at::Tensor& rows) {
                             const std::size_t bytes = static_cast<std::size_t>(x.size(1)) * x.itemsize();
                             const std::int64_t k = place.size(1);
                             parallel_rows(x.size(0), [&](std::int64_t begin, std::int64_t end) {
                               for (std::int64_t m = begin * k; m < end * k; ++m) {
                                 std::memcpy(data_of<char>(rows) + static_cast<std::size_t>(place.data_ptr<std::int32_t>()[m]) * bytes,
                                             data_of<const char>(x) + static_cast<std::size_t>(m / k) * bytes, bytes);
                               }
                             });
                           },
                           [](const at::Tensor& rows, const at::Tensor& place, const at::Tensor& weights, const at::Tensor& y) {
                             dispatch_cpu(rows.scalar_type(), [&](const auto& kernels, auto type) {
                               using X = decltype(type);
                               parallel_rows(y.size(0), [&](std::int64_t begin, std::int64_t end) {
                                 kernels.combine_rows(data_of<const X>(rows), place.data_ptr<std::int32_t>(),
                                                      static_cast<const float*>(data_or_null(weights)), data_of<X>(y), begin, end,
                                                      place.size(1), rows.size(1));
                               });
                             });
                           },
                           [](const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& place, const at::Tensor& weights,
                              const at::Tensor& d_rows, const at::Tensor& d_weights) {
                             dispatch_cpu(rows.scalar_type(), [&](const auto& kernels, auto type) {
                               using X = decltype(type);
                               parallel_rows(dy.size(0), [&](std::int64_t begin, std::int64_t end) {
                                 kernels.combine_rows_backward(data_of<const X>(dy), data_of<const X>(rows), place.data_ptr<std::int32_t>(),
                                                               weights.data_ptr<float>(), data_of<X>(d_rows), d_weights.data_ptr<float>(),
                                                               begin, end, place.size(1), rows.size(1));
                               });
                             });
                           }};

// Of a node that is run backward. That tensors are the CPU's does not tell: tests run the CUDA kernels' source there.
const RowMovers& movers_of(AutogradContext* context) { return context->saved_data["on_cpu"].toBool() ? kCpuMovers : kCudaMovers; }

// [N, D] -> [M, D], sorted; backward sums each token's k gradients.
class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_ND, const at::Tensor& place_Nk, bool on_cpu) {
    context->save_for_backward({place_Nk});
    context->saved_data["on_cpu"] = on_cpu;
    const at::Tensor x = x_ND.contiguous(), rows = at::empty({place_Nk.numel(), x.size(1)}, x.options());
    movers_of(context).gather(x, place_Nk, rows);
    return rows;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor place_Nk = context->get_saved_variables()[0], d_rows = grads[0].contiguous();
    const at::Tensor dx = at::empty({place_Nk.size(0), d_rows.size(1)}, d_rows.options());
    movers_of(context).combine(d_rows, place_Nk, {}, dx);
    return {dx, {}, {}};
  }
};

// [M, D], sorted, weights [N, k] -> [N, D]
class CombineRows : public torch::autograd::Function<CombineRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_MD, const at::Tensor& weights_Nk, const at::Tensor& place_Nk,
                            bool on_cpu) {
    const at::Tensor rows = rows_MD.contiguous(), weights = weights_Nk.contiguous();
    context->save_for_backward({rows, weights, place_Nk});
    context->saved_data["on_cpu"] = on_cpu;
    const at::Tensor y = at::empty({place_Nk.size(0), rows.size(1)}, rows.options());
    movers_of(context).combine(rows, place_Nk, weights, y);
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &rows = saved[0], &weights = saved[1], &place_Nk = saved[2], dy = grads[0].contiguous();
    const at::Tensor d_rows = at::empty_like(rows), d_weights = at::empty_like(weights);
    movers_of(context).combine_backward(dy, rows, place_Nk, weights, d_rows, d_weights);
    return {d_rows, d_weights, {}, {}};
  }
};

// Sorted and moved by our kernels, in CUDA or the CPU's.
at::Tensor moved_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk, const ExpertWeights& experts,
                         Path swiglu_path, bool on_cpu) {
  const SortedChoices sorted = (on_cpu ? kCpuMovers : kCudaMovers).sort(chosen_Nk, experts.gate_up.size(0));
  const Groups groups = groups_ending_at(sorted.ends_E, x_ND);
  const at::Tensor inner =
      swiglu(grouped_linear(GatherRows::apply(x_ND, sorted.place_Nk, on_cpu), experts.gate_up, groups, on_cpu), swiglu_path);
  return CombineRows::apply(grouped_linear(inner, experts.down, groups, on_cpu), weights_Nk, sorted.place_Nk, on_cpu);
}

// Whether the CPU's own kernels take it, and are the ones for it.
bool moves_on_cpu(const at::Tensor& x_ND, const ExpertWeights& experts) {
  return multiplies(x_ND, x_ND.size(1)) && multiplies(x_ND, experts.down.size(2)) && !are_few_rows(x_ND, experts.gate_up[0]);
}

class ChosenScores : public torch::autograd::Function<ChosenScores> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_NE, const at::Tensor& chosen_Nk) {
    context->save_for_backward({chosen_Nk});
    context->saved_data["experts"] = x_NE.size(1);
    return x_NE.gather(1, chosen_Nk);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor chosen_Nk = context->get_saved_variables()[0];
    const at::Tensor d_x_NE = at::zeros({chosen_Nk.size(0), context->saved_data["experts"].toInt()}, grads[0].options());
    return {d_x_NE.scatter_add_(1, chosen_Nk, grads[0]), {}};
  }
};

// 4. The reference.

at::Tensor every_expert_on_every_token(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                                       const ExpertWeights& experts, Path swiglu_path) {
  at::Tensor sum = at::zeros_like(x_ND, x_ND.options().dtype(weights_Nk.scalar_type()));
  for (std::int64_t e = 0; e < experts.gate_up.size(0); ++e) {
    const at::Tensor weight_N = at::where(chosen_Nk == e, weights_Nk, at::zeros_like(weights_Nk)).sum(1);
    const at::Tensor y = at::linear(swiglu(at::linear(x_ND, experts.gate_up[e]), swiglu_path), experts.down[e]);
    sum = sum + weight_N.unsqueeze(1) * y;
  }
  return sum.to(x_ND.scalar_type());
}

}  // namespace

at::Tensor chosen_scores(const at::Tensor& x_NE, const at::Tensor& chosen_Nk) { return ChosenScores::apply(x_NE, chosen_Nk); }

at::Tensor expert_counts(const at::Tensor& chosen_Nk, std::int64_t experts) {
  const at::Tensor chosen_M = chosen_Nk.reshape(-1);
  if (!chosen_M.is_cuda()) return at::bincount(chosen_M, {}, experts);
  // On CUDA the host would wait for bincount, which asks for the largest number. Sums of ones are the same in any order.
  return at::zeros({experts}, chosen_M.options()).scatter_add_(0, chosen_M, at::ones_like(chosen_M));
}

at::Tensor cuda_expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk,
                               const ExpertWeights& experts, Path swiglu_path) {
  TORCH_CHECK(x_ND.scalar_type() == at::kBFloat16 && weights_Nk.scalar_type() == at::kFloat && chosen_Nk.scalar_type() == at::kLong,
              "experts: fused takes BFloat16, Float weights and Long choices, got ", x_ND.scalar_type(), ", ", weights_Nk.scalar_type(),
              ", ", chosen_Nk.scalar_type());
  return moved_mixture(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path, /*on_cpu=*/false);
}

at::Tensor expert_mixture(const at::Tensor& x_ND, const at::Tensor& chosen_Nk, const at::Tensor& weights_Nk, const ExpertWeights& experts,
                          Path path, Path swiglu_path) {
  TORCH_CHECK(chosen_Nk.sizes() == weights_Nk.sizes() && chosen_Nk.size(0) == x_ND.size(0), "experts: chosen ", chosen_Nk.sizes(),
              ", weights ", weights_Nk.sizes(), ", tokens ", x_ND.size(0));
  if (path == Path::kReference) return every_expert_on_every_token(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path);
  if (path == Path::kFused) {
    if (!x_ND.is_cpu()) return cuda_expert_mixture(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path);
    if (moves_on_cpu(x_ND, experts)) return moved_mixture(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path, /*on_cpu=*/true);
  }
  return sorted_mixture(x_ND, chosen_Nk, weights_Nk, experts, swiglu_path);
}

}  // namespace meristem::ops
