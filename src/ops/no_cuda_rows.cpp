// The kernels over rows in a build that does not link CUDA.
#include "core/errors.h"
#include "ops/cuda_rows.h"

namespace meristem::ops {
namespace {

[[noreturn]] void refuse_cuda(const char* op) {
  throw InputError(std::string("kernels.") + op + ": fused needs a build with CUDA (cmake --preset cuda)");
}

}  // namespace

void rms_norm_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, const at::Tensor&, const at::Tensor&,
                   const at::Tensor&) {
  refuse_cuda("rms_norm");
}

at::Tensor rms_norm_backward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                  const at::Tensor&) {
  refuse_cuda("rms_norm");
}

void swiglu_cuda(const at::Tensor&, const at::Tensor&) { refuse_cuda("swiglu"); }

void swiglu_backward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&) { refuse_cuda("swiglu"); }

void rope_cuda(const at::Tensor&, std::int64_t, const at::Tensor&, const RopeTable&, float) { refuse_cuda("rope"); }

void qk_norm_rope_cuda(const at::Tensor&, const QkNorm&, const at::Tensor&, const RopeTable&, const at::Tensor&) { refuse_cuda("rope"); }

at::Tensor qk_norm_rope_backward_cuda(const at::Tensor&, const at::Tensor&, const QkNorm&, const at::Tensor&, const RopeTable&,
                                      const at::Tensor&) {
  refuse_cuda("rope");
}

void cross_entropy_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) { refuse_cuda("cross_entropy"); }

at::Tensor squared_norm_cuda(const at::Tensor&) { refuse_cuda("adamw"); }

}  // namespace meristem::ops
