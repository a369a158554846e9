// Operators against their peers: programs take turns on the same inputs, times are medians of device events, and each comparison is one
// line of JSON on standard output.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "ops/paths.h"

namespace meristem::bench {

struct Settings {
  at::Device device = at::kCPU;
  bool tiny = false;        // shapes that a CPU does in no time
  bool once = false;        // each program once, untimed: what compute-sanitizer watches
  double seconds_each = 1;  // for one comparison
};

struct Program {
  std::string name;
  std::function<void()> run;
};

class Bench {
 public:
  explicit Bench(Settings settings) : settings_(settings) {}

  const Settings& settings() const { return settings_; }
  at::TensorOptions bf16() const { return torch::dtype(torch::kBFloat16).device(settings_.device); }
  at::TensorOptions fp32() const { return torch::dtype(torch::kFloat).device(settings_.device); }

  // Median seconds of each; the first to run moves on by one each round, and before each run the caches are emptied.
  std::vector<double> medians(const std::vector<Program>& programs);
  // Times them and prints {"subject", "case", "seconds": {name: median}, …fields}. The first is ours. "bytes" and "flops" of its work let
  // scripts/bench/gpu_roofline.py say what it should take; "mask" and "head_dim" are what a proof is for.
  void compare(const std::string& subject, const std::string& name, const std::vector<Program>& programs, nlohmann::json fields = {});
  // As compare, with a copy as the peer: "bytes" moved in all and "copy_share", the bandwidth of ours over the copy's.
  void compare_with_copy(const std::string& subject, const std::string& name, const Program& ours, double bytes,
                         nlohmann::json fields = {});
  // Bytes that tensors hold at most while it runs, above what they hold before; 0 on the CPU.
  std::int64_t peak_bytes(const std::function<void()>& run) const;

 private:
  double seconds_of(const Program& program);
  double copy_bandwidth();
  void empty_caches();

  Settings settings_;
  at::Tensor flush_;
  double copy_bandwidth_ = 0;  // bytes read and written a second
};

// Our kernel where it can run on the device, else what runs in its place.
ops::Path our_path(std::string_view op, const Bench& bench);
// "meristem fused"
std::string our_name(ops::Path path);

// Gradients of `output` in `inputs`, again and again over one graph.
void run_backward(const at::Tensor& output, const std::vector<at::Tensor>& inputs, const at::Tensor& d_output);

// One file a group of subjects.
void bench_attention(Bench& bench);
void bench_attention_window(Bench& bench);
void bench_attention_packed(Bench& bench);
void bench_attention_joint(Bench& bench);
void bench_rms_norm(Bench& bench);
void bench_rope(Bench& bench);
void bench_swiglu(Bench& bench);
void bench_cross_entropy(Bench& bench);
void bench_experts(Bench& bench);
void bench_adamw(Bench& bench);
void bench_depth_attention(Bench& bench);

}  // namespace meristem::bench
