// All parameters of a model in a few flat buffers: fp32 masters, fp32 gradients, and where the compute type is bf16 a bf16 copy.
// A segment is a (block, decay group): it starts 64-byte aligned, has its own step count, and its state is named by parameter, so that
// growth, checkpoints and data parallelism need no special case.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/named_tensors.h"

namespace meristem {

struct FlatEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0, count = 0;  // elements in the flat buffers
  std::size_t segment = 0;
};

struct FlatSegment {
  std::string name;  // "embedding", "blocks.3.decay", "blocks.3.no_decay", "norm", "head"
  bool decay = false;
  std::int64_t offset = 0, count = 0;  // alignment padding included; padding stays zero
};

class FlatParameters {
 public:
  // Takes over a model's parameters: from now on they are views of these buffers, and gradients land in grad().
  // Norm gains and routers are views of the fp32 masters; the others of the bf16 copy where `compute` is bf16, else of the masters.
  // decay_embeddings: embeddings (and a tied head) decay too.
  FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, bool decay_embeddings);
  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  const std::vector<FlatEntry>& entries() const { return entries_; }
  const std::vector<FlatSegment>& segments() const { return segments_; }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& grad() const { return grad_; }
  const at::Tensor& half() const { return half_; }  // undefined where the compute type is fp32

  // Views of one entry or segment in a flat buffer of ours, or in another one of the same layout.
  at::Tensor view(const at::Tensor& flat, const FlatEntry& entry) const;
  at::Tensor slice(const at::Tensor& flat, const FlatSegment& segment) const;
  // A zeroed fp32 buffer of the same layout.
  at::Tensor zeros_like_master() const;

  void zero_grad();
  // Masters by parameter name: views, no copy.
  NamedTensors masters() const;
  // Copies values in by name and refreshes the bf16 copy. DamagedError where a name is missing, unknown, or of another shape.
  void load_masters(const NamedTensors& values);
  // bf16 copy <- masters.
  void refresh_half();

 private:
  void lay_out(const std::vector<ParameterInfo>& infos, bool decay_embeddings);
  void bind(const std::vector<ParameterInfo>& infos);

  std::vector<FlatEntry> entries_;
  std::vector<FlatSegment> segments_;
  at::Tensor master_, grad_, half_;
};

}  // namespace meristem
