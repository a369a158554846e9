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

// A contiguous stretch of the flat buffers, in elements, and the rank that updates it where the optimizer is sharded.
struct FlatPiece {
  std::int64_t offset = 0, count = 0;
  int owner = 0;
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
  // owned: the pieces that this rank updates, where the optimizer is sharded. Then, with a bf16 copy, masters are kept of them and of what
  // the model reads in fp32, and of nothing else.
  FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, const OptimizerConfig& config, int ranks = 1,
                 const std::vector<FlatPiece>& owned = {});
  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  const FlatLayout& layout() const { return layout_; }
  const std::vector<FlatEntry>& entries() const { return layout_.entries; }
  const std::vector<FlatRange>& ranges() const { return layout_.ranges; }
  // All masters, of a rank that keeps them.
  const at::Tensor& master() const;
  // Those that are kept here, side by side, and where in there a stretch begins, all of which is kept.
  const at::Tensor& kept_masters() const { return master_; }
  std::int64_t kept_at(std::int64_t offset, std::int64_t count) const;
  at::Tensor master(std::int64_t offset, std::int64_t count) const { return master_.narrow(0, kept_at(offset, count), count); }
  at::Tensor master(const FlatEntry& entry) const { return master(entry.offset, entry.count).view(entry.shape); }
  // Calls action(offset in the entry, masters [n]) for what is kept here of an entry's masters.
  void each_kept(const FlatEntry& entry, const std::function<void(std::int64_t, const at::Tensor&)>& action) const;
  const at::Tensor& grad() const { return strands_.front(); }
  // For ops::on_strands: grad(), and a buffer for each further strand, which join_strands() adds to grad().
  const std::vector<at::Tensor>& strand_gradients() const { return strands_; }
  void join_strands();
  const at::Tensor& half() const { return half_; }  // undefined where the compute type is fp32

  // A view of one entry in a flat buffer of ours, or in another one of the same layout.
  at::Tensor view(const at::Tensor& flat, const FlatEntry& entry) const;

  // Begins an update by so many strands: all of their gradients are zero.
  void zero_grad(std::int64_t strands = 1);
  // `told` hears of each entry of the layout whose gradient is in grad(), once a backward pass, from the thread that runs it; a parameter
  // that the pass did not reach is not told. Pass none to end it.
  void on_gradient(std::function<void(std::size_t entry)> told);
  // Masters by parameter name: views, no copy. Of a rank that keeps them all.
  NamedTensors masters() const;
  // Copies values in by name, into the bf16 copy too. DamagedError where a name is missing, unknown, or of another shape.
  void load_masters(const NamedTensors& values);

 private:
  struct Kept {
    std::int64_t offset = 0, count = 0;  // of the flat buffers
    std::int64_t at = 0;                 // in master_
  };
  void keep(const std::vector<FlatPiece>& owned);
  void set(const FlatEntry& entry, const at::Tensor& value);
  void bind(const std::vector<ParameterInfo>& infos);

  FlatLayout layout_;
  std::vector<Kept> kept_;  // in order, none of them touching
  at::Tensor master_, half_;
  std::vector<at::Tensor> strands_;                         // gradients: grad() first
  bool joined_ = true;                                      // the others are zero
  std::shared_ptr<std::function<void(std::size_t)>> told_;  // hooks of the parameters hold it too
};

}  // namespace meristem
