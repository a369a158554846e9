// All parameters of a model in a few flat buffers: fp32 masters, fp32 gradients, and where the compute type is bf16 a bf16 copy.
// A range is what a block has of one update rule and decay group: it starts 64-byte aligned and may have a step count. State is named by
// parameter and range, so that growth, checkpoints and data parallelism need no special case.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/named_tensors.h"

namespace meristem {

// Ranges and the pieces of buckets begin at multiples of so many elements: 64 bytes in bf16, 128 in fp32.
inline constexpr std::int64_t kFlatAlign = 32;

// The parts of a model in the order in which a forward pass reads them: what is no block's and may be read before one (embedding,
// injection), blocks 0, 1, …, and the final norm and the head.
inline constexpr std::int64_t kFirstPart = -1, kLastPart = std::int64_t{1} << 62;

struct FlatEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0, count = 0;  // elements in the flat buffers
  std::size_t range = 0;
  MatrixRows packed_rows;
  std::size_t place = 0;    // among the model's parameters
  std::int64_t part = 0;    // of the model that reads it first: kFirstPart, block i, or kLastPart
  bool stays_fp32 = false;  // the model reads the fp32 master, whatever its compute type
  bool learns = true;       // false: no gradient ever comes
};

enum class UpdateRule { kAdamw, kMuon };

struct FlatRange {
  std::string name;  // "embedding", "blocks.3.decay", "blocks.3.no_decay", "blocks.3.muon", "norm", "head"
  UpdateRule rule = UpdateRule::kAdamw;
  bool decay = false;
  std::int64_t offset = 0, count = 0;  // alignment padding included; padding stays zero
};

// Where each parameter lies. Follows from names, roles and shapes alone, and from the number of ranks: the ranges of one rule are padded
// at their end to a multiple of kFlatAlign for each.
struct FlatLayout {
  std::vector<FlatEntry> entries;
  std::vector<FlatRange> ranges;  // those of one rule side by side
  std::int64_t count = 0;         // elements of a flat buffer
};
FlatLayout flat_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config, int ranks = 1);

class FlatParameters {
 public:
  // Takes over a model's parameters: from now on they are views of these buffers, and gradients land in grad().
  // Norm gains and routers are views of the fp32 masters; the others of the bf16 copy where `compute` is bf16, else of the masters.
  FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, const OptimizerConfig& config, int ranks = 1);
  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  const FlatLayout& layout() const { return layout_; }
  const std::vector<FlatEntry>& entries() const { return layout_.entries; }
  const std::vector<FlatRange>& ranges() const { return layout_.ranges; }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& grad() const { return grad_; }
  const at::Tensor& half() const { return half_; }  // undefined where the compute type is fp32

  // A view of one entry in a flat buffer of ours, or in another one of the same layout.
  at::Tensor view(const at::Tensor& flat, const FlatEntry& entry) const;

  void zero_grad();
  // `told` hears of each entry of the layout whose gradient is in grad(), once a backward pass, from the thread that runs it; a parameter
  // that the pass did not reach is not told. Pass none to end it.
  void on_gradient(std::function<void(std::size_t entry)> told);
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
  std::shared_ptr<std::function<void(std::size_t)>> told_;  // hooks of the parameters hold it too
};

}  // namespace meristem
