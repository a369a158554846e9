#include "ops/grouped_linear.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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
                            const std::vector<std::int64_t>& ends) {
    context->save_for_backward({x_MI, weight_EOI, ends_E});
    context->saved_data["ends"] = ends;
    if (ends.empty()) {
      check_widths(weight_EOI);
      return at::_grouped_mm(x_MI, weight_EOI.transpose(1, 2), ends_E);
    }
    at::Tensor y_MO = at::empty({x_MI.size(0), weight_EOI.size(1)}, x_MI.options());
    for_groups(ends, x_MI.is_cpu(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
      at::Tensor y = y_MO.narrow(0, begin, count);
      at::mm_out(y, x_MI.narrow(0, begin, count), weight_EOI[e].t());
    });
    return y_MO;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x_MI = saved[0], &weight_EOI = saved[1], &ends_E = saved[2];
    const std::vector<std::int64_t> ends = context->saved_data["ends"].toIntVector();
    const at::Tensor dy_MO = grads[0].contiguous();
    if (ends.empty()) return {at::_grouped_mm(dy_MO, weight_EOI, ends_E), at::_grouped_mm(dy_MO.t(), x_MI, ends_E), {}, {}};
    at::Tensor dx_MI = at::empty_like(x_MI), dw_EOI = at::zeros_like(weight_EOI);
    for_groups(ends, x_MI.is_cpu(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
      const at::Tensor dy = dy_MO.narrow(0, begin, count);
      at::Tensor dx = dx_MI.narrow(0, begin, count), dw = dw_EOI[e];
      at::mm_out(dx, dy, weight_EOI[e]);
      at::mm_out(dw, dy.t(), x_MI.narrow(0, begin, count));
    });
    return {dx_MI, dw_EOI, {}, {}};
  }
};

}  // namespace

Groups groups_of(const at::Tensor& counts_E, const at::Tensor& like) { return groups_ending_at(counts_E.cumsum(0).to(at::kInt), like); }

Groups groups_ending_at(const at::Tensor& ends_E, const at::Tensor& like) {
  Groups groups{ends_E, {}};
  if (one_operator_for_all(like)) return groups;
  const at::Tensor host = ends_E.to(at::kLong).cpu();
  groups.ends.assign(host.data_ptr<std::int64_t>(), host.data_ptr<std::int64_t>() + host.numel());
  return groups;
}

at::Tensor grouped_linear(const at::Tensor& x_MI, const at::Tensor& weight_EOI, const Groups& groups) {
  return GroupedLinear::apply(x_MI, weight_EOI, groups.ends_E, groups.ends);
}

}  // namespace meristem::ops
