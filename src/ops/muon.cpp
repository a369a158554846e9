#include "ops/muon.h"

#include <algorithm>
#include <cmath>

#include <torch/torch.h>

namespace meristem::ops {
namespace {

double scale_of(MuonScale scale, std::int64_t rows, std::int64_t columns) {
  const auto r = static_cast<double>(rows), c = static_cast<double>(columns);
  return scale == MuonScale::kOriginal ? std::sqrt(std::max(1.0, r / c)) : 0.2 * std::sqrt(std::max(r, c));
}

// x's packed matrices as batches [..., matrices, rows, columns], one for each run of matrices of equal height.
std::vector<at::Tensor> batches_of(const at::Tensor& x, std::vector<std::int64_t> packed_rows) {
  if (packed_rows.empty()) packed_rows = {x.size(-2)};
  std::vector<at::Tensor> batches;
  std::int64_t row = 0;
  for (std::size_t first = 0; first < packed_rows.size();) {
    const std::int64_t rows = packed_rows[first];
    std::int64_t matrices = 0;
    for (; first < packed_rows.size() && packed_rows[first] == rows; ++first) ++matrices;
    batches.push_back(x.narrow(-2, row, matrices * rows).unflatten(-2, {matrices, rows}));
    row += matrices * rows;
  }
  TORCH_CHECK(row == x.size(-2), "packed matrices have ", row, " rows, the parameter has ", x.size(-2));
  return batches;
}

}  // namespace

void muon_step(const std::vector<MuonParameter>& parameters, const at::Tensor& lr, const at::Tensor& grad_scale, const MuonSettings& s) {
  const at::Tensor counts = grad_scale.isfinite(), keep = 1 - lr * s.weight_decay;
  for (const MuonParameter& p : parameters) {
    at::Tensor update = p.grad * grad_scale;
    {
      const at::Tensor momentum = p.momentum.lerp(update, 1 - s.momentum);
      update = s.nesterov ? update.lerp(momentum, s.momentum) : momentum;
      p.momentum.copy_(at::where(counts, momentum, p.momentum));
    }
    const std::vector<at::Tensor> updates = batches_of(update, p.packed_rows), masters = batches_of(p.master, p.packed_rows);
    for (std::size_t i = 0; i < masters.size(); ++i) {
      const at::Tensor& master = masters[i];
      const double scale = scale_of(s.scale, master.size(-2), master.size(-1));
      const at::Tensor direction = orthogonalized(updates[i], s.steps).to(at::kFloat);
      master.copy_(at::where(counts, (master * keep).addcmul_(direction, lr, -scale), master));
    }
  }
}

at::Tensor orthogonalized(const at::Tensor& x, std::int64_t steps) {
  // Jordan's polynomial a y + b y^3 + c y^5: steepest at 0 of those that end within (0.7, 1.2) after five steps.
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315, kSmallestNorm = 1e-7;
  const bool tall = x.size(-2) > x.size(-1);  // the Gram matrix of the shorter side is the smaller one
  at::Tensor y = x.to(at::kBFloat16).reshape({-1, x.size(-2), x.size(-1)});
  if (tall) y = y.mT();
  y = y / at::linalg_vector_norm(y, 2, at::IntArrayRef{-2, -1}, /*keepdim=*/true).clamp_min(kSmallestNorm);
  for (std::int64_t step = 0; step < steps; ++step) {
    const at::Tensor gram = at::bmm(y, y.mT()), polynomial = at::baddbmm(gram, gram, gram, kB, kC);
    y = at::baddbmm(y, polynomial, y, kA, 1);
  }
  return (tall ? y.mT() : y).reshape(x.sizes());
}

}  // namespace meristem::ops
