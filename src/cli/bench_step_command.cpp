// A step on request, for benchmarks that alternate with another program: reads "step" and "quit" lines, answers JSON lines.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include "cli/commands.h"
#include "cli/random_batch.h"
#include "core/text.h"
#include "metrics/memory.h"
#include "metrics/throughput.h"
#include "ops/device.h"
#include "train/run.h"
#include "train/stepper.h"

namespace meristem::cli {
namespace {

struct BenchArguments {
  std::int64_t layers = 6, width = 256, inner = 704, heads = 4, kv_heads = 4, vocab = 4096, sequence = 256, batch = 16;
  std::string precision = "fp32", device = "auto", kernels = "auto", graph = "auto";
};

RunConfig config_of(const BenchArguments& a) {
  RunConfig config;
  config.model.vocab_size = a.vocab;
  config.model.width = a.width;
  config.model.blocks = a.layers;
  config.model.attention.heads = a.heads;
  config.model.attention.kv_heads = a.kv_heads;
  config.model.attention.head_dim = a.width / a.heads;
  config.model.feed_forward.inner = a.inner;
  config.data.sequence_length = a.sequence;
  config.precision = {a.precision, a.precision};
  config.data.document_mask = false;
  config.data.sources.emplace_back("random", SourceConfig{});
  config.optimizer.lr = 1e-3;
  config.kernels.graph = a.graph;
  for (std::string* path : {&config.kernels.attention, &config.kernels.cross_entropy, &config.kernels.adamw, &config.kernels.rms_norm,
                            &config.kernels.rope, &config.kernels.swiglu}) {
    *path = a.kernels;
  }
  return config;
}

// ,"peak_flops":… where the table knows the device.
std::string peak_field(at::Device device) {
  const auto peak = peak_bf16_flops(device_name(device));
  return peak ? fmt::format(",\"peak_flops\":{}", number_text(*peak)) : "";
}

// ,"device_peak_bytes":… : the most that tensors held of a GPU's memory.
std::string device_peak_field(at::Device device) {
  if (!device.is_cuda()) return "";
  const auto stats = at::accelerator::getDeviceStats(std::max<c10::DeviceIndex>(device.index(), 0));
  return fmt::format(",\"device_peak_bytes\":{}", stats.allocated_bytes[0].peak);
}

ExitCode serve(const BenchArguments& a) {
  const RunConfig config = config_of(a);
  const ModelRegistry registry = builtin_registry();
  const at::Device device = a.device == "auto" ? pick_device() : at::Device(a.device);
  LiveModel live(config, registry, device, a.layers, true);
  SpikeDetector spikes;
  Stepper stepper(config, device, live.paths());
  const HostBatch batch = random_batch(a.batch, a.sequence, a.vocab);
  std::int64_t parameters = 0;
  for (const FlatEntry& entry : live.parameters().entries()) parameters += entry.count;
  std::cout << fmt::format("{{\"ready\":true,\"parameters\":{},\"kernels\":\"{}, graph {}\"{}}}", parameters, ops::describe(live.paths()),
                           stepper.uses_graphs() ? "on" : "off", peak_field(device)) << std::endl;
  std::int64_t number = 0;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    if (device.is_cuda()) torch::cuda::synchronize();
    const auto begin = std::chrono::steady_clock::now();
    auto results = stepper.step(live, [&](std::int64_t) { return batch; },
                                {++number, DepthPlan::plain(a.layers), config.optimizer.lr, 1, a.batch}, spikes);
    if (results.empty()) results = stepper.finish(spikes);
    if (device.is_cuda()) torch::cuda::synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::cout << fmt::format("{{\"seconds\":{},\"loss\":{}}}", number_text(seconds), number_text(results.at(0).loss)) << std::endl;
  }
  std::cout << fmt::format("{{\"peak_bytes\":{}{}}}", process_memory().peak_bytes, device_peak_field(device)) << std::endl;
  return ExitCode::kOk;
}

}  // namespace

void add_bench_step(CLI::App& app, Action& run) {
  auto a = std::make_shared<BenchArguments>();
  CLI::App* command = app.add_subcommand("bench-step", "Serve single training steps to a benchmark over standard input")->group("");
  command->add_option("--layers", a->layers, "");
  command->add_option("--width", a->width, "");
  command->add_option("--inner", a->inner, "");
  command->add_option("--heads", a->heads, "");
  command->add_option("--kv-heads", a->kv_heads, "");
  command->add_option("--vocab", a->vocab, "");
  command->add_option("--sequence", a->sequence, "");
  command->add_option("--batch", a->batch, "");
  command->add_option("--precision", a->precision, "")->check(CLI::IsMember({"fp32", "bf16"}));
  command->add_option("--device", a->device, "");
  command->add_option("--kernels", a->kernels, "");
  command->add_option("--graph", a->graph, "")->check(CLI::IsMember({"off", "on", "auto"}));
  command->callback([a, &run] { run = [a] { return serve(*a); }; });
}

}  // namespace meristem::cli
