// Muon (Jordan et al., 2024): momentum, made orthogonal, for matrices between hidden states.
//   g' = g * grad_scale;  m = mu m + (1-mu) g';  u = (1-mu) g' + mu m with nesterov, else m
//   p = p (1 - lr wd) - lr s O(u)
// O(u) brings the singular values of u near 1 by Newton-Schulz steps. s depends on a matrix's rows r and columns c:
//   original   sqrt(max(1, r/c))        Jordan's; wants a learning rate of its own, about 0.02
//   moonlight  0.2 sqrt(max(r, c))      an update of the size that AdamW's has, so that one learning rate serves both (Liu et al., 2025)
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

enum class MuonScale { kMoonlight, kOriginal };

struct MuonSettings {
  double momentum = 0.95, weight_decay = 0;
  bool nesterov = true;
  std::int64_t steps = 5;  // of Newton-Schulz
  MuonScale scale = MuonScale::kMoonlight;
};

// Float32 tensors of one shape, [rows, columns] or [experts, rows, columns]: a matrix, or a matrix an expert. packed_rows: the rows of the
// matrices that it packs one below the other, (queries, keys, values) for example; empty: it is one.
struct MuonParameter {
  at::Tensor master, grad, momentum;
  std::vector<std::int64_t> packed_rows;
};

// One update. lr and grad_scale: float32 scalars on the same device. Refused where grad_scale is not finite: masters and momenta keep their
// bits. Waits for nothing. Takes up to 16 bytes for each element of the largest parameter while it runs (kMuonWorkspaceBytes).
inline constexpr std::int64_t kMuonWorkspaceBytes = 16;
void muon_step(const std::vector<MuonParameter>& parameters, const at::Tensor& lr, const at::Tensor& grad_scale,
               const MuonSettings& settings);

// x [..., rows, columns] with every matrix scaled to Frobenius norm 1 and its singular values brought near 1 by `steps` quintic steps in
// bfloat16, as torch.optim.Muon does. Returns bfloat16 of x's shape. A zero matrix stays zero.
at::Tensor orthogonalized(const at::Tensor& x, std::int64_t steps);

}  // namespace meristem::ops
