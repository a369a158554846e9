// All parameters of a model in a few flat buffers: fp32 masters, fp32 gradients, and where the compute type is bf16 a bf16 copy.
// A range is what a block has of one update rule and decay group: it starts 64-byte aligned and may have a step count. State is named by
// parameter and range, so that growth, checkpoints and data parallelism need no special case.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/named_tensors.h"

namespace meristem {

struct FlatEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0, count = 0;  // elements in the flat buffers
  std::size_t range = 0;
  MatrixRows packed_rows;
};

enum class UpdateRule { kAdamw, kMuon };

struct FlatRange {
  std::string name;  // "embedding", "blocks.3.decay", "blocks.3.no_decay", "blocks.3.muon", "norm", "head"
  UpdateRule rule = UpdateRule::kAdamw;
  bool decay = false;
  std::int64_t offset = 0, count = 0;  // alignment padding included; padding stays zero
};

// Where each parameter lies. Follows from names, roles and shapes alone.
struct FlatLayout {
  std::vector<FlatEntry> entries;
  std::vector<FlatRange> ranges;  // those of one rule side by side
  std::int64_t count = 0;         // elements of a flat buffer
};
FlatLayout flat_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config);

class FlatParameters {
 public:
  // Takes over a model's parameters: from now on they are views of these buffers, and gradients land in grad().
  // Norm gains and routers are views of the fp32 masters; the others of the bf16 copy where `compute` is bf16, else of the masters.
  FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, const OptimizerConfig& config);
  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  const std::vector<FlatEntry>& entries() const { return layout_.entries; }
  const std::vector<FlatRange>& ranges() const { return layout_.ranges; }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& grad() const { return grad_; }
  const at::Tensor& half() const { return half_; }  // undefined where the compute type is fp32

  // A view of one entry in a flat buffer of ours, or in another one of the same layout.
  at::Tensor view(const at::Tensor& flat, const FlatEntry& entry) const;

  void zero_grad();
  // Masters by parameter name: views, no copy.
  NamedTensors masters() const;
  // Copies values in by name and refreshes the bf16 copy. DamagedError where a name is missing, unknown, or of another shape.
  void load_masters(const NamedTensors& values);
  // bf16 copy <- masters.
  void refresh_half();

 private:
  void bind(const std::vector<ParameterInfo>& infos);

  FlatLayout layout_;
  at::Tensor master_, grad_, half_;
};

}  // namespace meristem
