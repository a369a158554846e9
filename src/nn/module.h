// Base of all modules with parameters: each parameter says its role (which decides update rule, weight decay and precision), how it starts,
// and which matrices it packs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "core/named_tensors.h"
#include "ops/paths.h"

namespace meristem::nn {

// Standard deviation that every matrix starts with, where nothing says otherwise.
inline constexpr double kInitStd = 0.02;

// Where and in what types a model lives, and how its matrices are multiplied. Parameters of roles that stay in fp32 have type `norm`, all
// others `compute`.
struct Placement {
  at::Device device = at::kCPU;  // kMeta: shapes only, for counting
  at::ScalarType compute = at::kFloat, residual = at::kFloat, norm = at::kFloat;
  ops::Path linear = ops::Path::kLibrary;  // of matrix products; a model's registry takes it from the build's paths
};

class Module : public torch::nn::Module {
 public:
  // This module's and its children's parameters in registration order, each once, full names.
  std::vector<ParameterInfo> parameter_infos() const;

 protected:
  at::Tensor add_parameter(const std::string& name, at::IntArrayRef shape, Role role, double init_std, const Placement& placement,
                           MatrixRows packed_rows = {});
  // Says of a parameter that it is a mixer's last map, or a bias of it (ParameterInfo::ends_mixer).
  void mark_ends_mixer(const std::string& name);

 private:
  struct Own {
    std::string name;
    Role role;
    double init_std;
    MatrixRows packed_rows;
    bool ends_mixer = false;
  };
  void collect(const std::string& prefix, std::vector<ParameterInfo>& out) const;
  std::vector<Own> own_;
};

// The starting value of every parameter in fp32, by name, each from its own counter-based stream keyed by (seed, name): adding a part
// shifts no other part's numbers.
NamedTensors initial_values(const Module& module, std::uint64_t seed);

}  // namespace meristem::nn
