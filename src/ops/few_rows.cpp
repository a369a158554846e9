#include "ops/few_rows.h"

#include <utility>

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include "ops/launch.h"

namespace meristem::ops {
namespace {

bool& decoding() {
  thread_local bool rows = false;
  return rows;
}

}  // namespace

DecodingRows::DecodingRows() : before_(std::exchange(decoding(), true)) {}
DecodingRows::~DecodingRows() { decoding() = before_; }

bool are_few_rows(const at::Tensor& x_NI, const at::Tensor& weight_OI) {
  const auto type = x_NI.scalar_type();
  return decoding() && x_NI.dim() == 2 && x_NI.size(0) <= kFewRows && x_NI.is_cpu() && weight_OI.is_cpu() &&
         (type == at::kFloat || type == at::kBFloat16) && weight_OI.scalar_type() == type && weight_OI.is_contiguous() &&
         !at::GradMode::is_enabled();
}

void multiply_few_rows_out(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& y_NO) {
  const std::int64_t rows = x_NI.size(0), depth = x_NI.size(1), out = weight_OI.size(0);
  TORCH_CHECK(weight_OI.size(1) == depth && y_NO.size(0) == rows && y_NO.size(1) == out, "few rows: ", x_NI.sizes(), " by ",
              weight_OI.sizes(), " into ", y_NO.sizes());
  constexpr std::int64_t kAlone = 1 << 17;  // products; with fewer, waking a thread costs more
  dispatch_cpu(x_NI.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto columns = [&](std::int64_t first, std::int64_t last) {
      kernels.few_rows({data_of<const X>(x_NI), x_NI.stride(0)}, rows, data_of<const X>(weight_OI), depth,
                       {data_of<X>(y_NO), y_NO.stride(0)}, first, last);
    };
    if (rows * depth * out < kAlone) {
      columns(0, out);
    } else {
      parallel_rows(out, columns);
    }
  });
}

at::Tensor multiply_few_rows(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  RECORD_FUNCTION("meristem::few_rows", {});
  const at::Tensor y_NO = at::empty({x_NI.size(0), weight_OI.size(0)}, x_NI.options());
  multiply_few_rows_out(x_NI.stride(1) == 1 ? x_NI : x_NI.contiguous(), weight_OI, y_NO);
  return bias_O.defined() ? y_NO + bias_O : y_NO;
}

}  // namespace meristem::ops
