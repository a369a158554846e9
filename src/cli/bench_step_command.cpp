// A step on request, for benchmarks that alternate with another program: reads "step", "idle N" (the GPU's idle share over N updates) and
// "quit" lines, answers JSON lines.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include "cli/bench_lanes.h"
#include "cli/commands.h"
#include "cli/device_trace.h"
#include "cli/random_batch.h"
#include "core/errors.h"
#include "core/text.h"
#include "metrics/throughput.h"
#include "ops/paths.h"
#include "run/run.h"
#include "step/update.h"

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
  config.model.depth_plan = DepthPlan::plain(a.layers).print();
  config.model.attention.heads = a.heads;
  config.model.attention.kv_heads = a.kv_heads;
  config.model.attention.head_dim = a.width / a.heads;
  config.model.feed_forward.inner = a.inner;
  config.data.sequence_length = a.sequence;
  config.precision.compute = choice_of<Precision>(a.precision).value();
  config.precision.residual = config.precision.compute;
  config.data.document_mask = false;
  config.data.sources.emplace_back("random", SourceConfig{});
  config.optimizer.lr = 1e-3;
  config.kernels.graph = a.graph;
  config.kernels.set_all(a.kernels);
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

// One model and its updates on one random batch.
class StepServer {
 public:
  explicit StepServer(const BenchArguments& a)
      : config_(config_of(a)),
        device_(a.device == "auto" ? pick_device() : at::Device(a.device)),
        live_(config_, timeline_, registry_, device_, a.layers, true),
        updater_(live_, config_, spikes_, graph_device_of(config_, device_, live_.paths())),
        batch_(random_batch(a.batch, a.sequence, a.vocab)) {}

  std::string ready() {
    std::int64_t parameters = 0;
    for (const FlatEntry& entry : live_.parameters().entries()) parameters += entry.count;
    return fmt::format("{{\"ready\":true,\"parameters\":{},\"kernels\":\"{}, graph {}\"{}}}", parameters, ops::describe(live_.paths()),
                       updater_.uses_graphs() ? "on" : "off", peak_field(device_));
  }
  // One update whose loss is read back.
  std::string step() {
    finish_device(device_);
    const auto begin = std::chrono::steady_clock::now();
    update();
    const auto results = updater_.finish();
    finish_device(device_);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return fmt::format("{{\"seconds\":{},\"loss\":{}}}", number_text(seconds), number_text(results.at(0).loss));
  }
  // Updates one after the other, as a run makes them between two lines of its log.
  std::string idle(int updates) {
    if (!device_.is_cuda()) throw InputError(fmt::format("bench-step: idle: found the device {}; allowed: a GPU", device_.str()));
    finish_device(device_);
    const double share = gpu_idle_share([&] {
      for (int i = 0; i < updates; ++i) update();
      updater_.finish();
      finish_device(device_);
    });
    return fmt::format("{{\"gpu_idle\":{}}}", number_text(share));
  }
  std::string memory() const { return fmt::format("{{\"peak_bytes\":{}{}}}", process_memory().peak_bytes, device_peak_field(device_)); }

 private:
  void update() {
    updater_.queue([&](std::int64_t) { return batch_; },
                   {++number_, DepthPlan::plain(live_.blocks()), config_.optimizer.lr, 1, batch_.sequences});
  }

  RunConfig config_;
  Timeline timeline_{config_};
  ModelRegistry registry_ = builtin_registry();
  at::Device device_;
  LiveModel live_;
  SpikeDetector spikes_;
  Updater updater_;
  HostBatch batch_;
  std::int64_t number_ = 0;
};

ExitCode serve(const BenchArguments& a) {
  StepServer server(a);
  std::cout << server.ready() << std::endl;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    int updates = 0;
    if (line == "step") {
      std::cout << server.step() << std::endl;
    } else if (std::sscanf(line.c_str(), "idle %d", &updates) == 1 && updates > 0) {
      std::cout << server.idle(updates) << std::endl;
    } else {
      throw InputError(fmt::format("bench-step: found '{}'; allowed: step, idle N, quit", line));
    }
  }
  std::cout << server.memory() << std::endl;
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
