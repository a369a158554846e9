// An update on request, for benchmarks that alternate with another program: reads "step", "idle N" (the GPU's idle share over N updates),
// "profile N" (where the host's time goes over N updates), "memory" and "quit" lines, answers JSON lines.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <set>

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "bench/commands.h"
#include "core/errors.h"
#include "core/text.h"
#include "metrics/throughput.h"
#include "ops/paths.h"
#include "run/run.h"
#include "step/update.h"

namespace meristem::bench {
namespace {

struct StepArguments {
  std::int64_t layers = 6, width = 256, inner = 704, heads = 4, kv_heads = 4, vocab = 4096, sequence = 256, batch = 16;
  std::string precision = "fp32", device = "auto", kernels = "auto", graph = "auto", threads = "auto";
};

RunConfig config_of(const StepArguments& a) {
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
  config.parallel.threads = choice_of<ThreadWork>(a.threads).value();
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

// Not waits and events, which take no time of the GPU, nor annotations, which would span the gaps between kernels.
bool occupies_the_gpu(std::uint8_t activity) {
  using libkineto::ActivityType;
  const auto type = static_cast<ActivityType>(activity);
  return type == ActivityType::CONCURRENT_KERNEL || type == ActivityType::GPU_MEMCPY || type == ActivityType::GPU_MEMSET;
}

// What LibTorch's profiler saw while `work` ran.
std::vector<torch::autograd::profiler::KinetoEvent> traced(torch::profiler::impl::ActivityType activity,
                                                           const std::function<void()>& work) {
  namespace profiler = torch::profiler::impl;
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  const std::set<profiler::ActivityType> activities{activity};
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
  work();
  return torch::autograd::profiler::disableProfiler()->events();
}

struct OperatorTime {
  double seconds = 0;  // without the operators that it calls
  std::int64_t calls = 0;
};

// By operator, on the thread that begins `work`, of which other strands are like: an operator's own time is what no operator inside it
// takes.
std::map<std::string, OperatorTime> operator_times(const std::function<void()>& work) {
  constexpr const char* kHere = "meristem-bench: here";
  auto events = traced(torch::profiler::impl::ActivityType::CPU, [&] {
    { RECORD_FUNCTION(kHere, {}); }
    work();
  });
  const auto here = std::find_if(events.begin(), events.end(), [&](const auto& event) { return event.name() == kHere; });
  const std::uint64_t thread = here == events.end() ? 0 : here->startThreadId();
  std::erase_if(events, [&](const auto& event) { return event.startThreadId() != thread || event.name() == kHere; });
  std::stable_sort(events.begin(), events.end(), [](const auto& a, const auto& b) {
    return a.startNs() != b.startNs() ? a.startNs() < b.startNs() : a.endNs() > b.endNs();
  });
  std::map<std::string, OperatorTime> times;
  std::vector<std::pair<std::uint64_t, OperatorTime*>> open;  // end and entry of those that are running
  for (const auto& event : events) {
    while (!open.empty() && open.back().first <= event.startNs()) open.pop_back();
    const double seconds = 1e-9 * static_cast<double>(event.endNs() - event.startNs());
    OperatorTime& own = times[event.name()];
    own.seconds += seconds;
    ++own.calls;
    if (!open.empty()) open.back().second->seconds -= seconds;
    open.emplace_back(event.endNs(), &own);
  }
  return times;
}

// FLOP/s of matrix products as large as this processor's caches like, in the compute type: what a step's products can at best reach.
double product_rate(at::ScalarType type, at::Device device) {
  constexpr std::int64_t kSize = 1024;
  const at::Tensor a = torch::randn({kSize, kSize}, at::TensorOptions(device).dtype(type)), b = torch::randn_like(a);
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    at::mm(a, b);
    finish_device(device);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return 2.0 * kSize * kSize * kSize / best;
}

// The share of the time from the first kernel, copy or fill of `work` to the end of the last in which the GPU ran none, as LibTorch's
// profiler saw it. `work` ends with the GPU's own end. Tracing makes launches slower, so this is at most too high. InputError where the
// profiler saw no GPU.
double gpu_idle_share(const std::function<void()>& work) {
  std::vector<BusyInterval> busy;
  for (const auto& event : traced(torch::profiler::impl::ActivityType::CUDA, work)) {
    if (occupies_the_gpu(event.activityType()))
      busy.push_back({static_cast<std::int64_t>(event.startNs()), static_cast<std::int64_t>(event.endNs())});
  }
  if (busy.empty()) throw InputError("step: idle: the profiler saw nothing run on a GPU");
  return idle_share(std::move(busy));
}

// One model and its updates on one random batch.
class StepServer {
 public:
  explicit StepServer(const StepArguments& a)
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
  // Updates one after the other, as a run makes them between two lines of its log. {"failed": why} where the profiler did not answer, whose
  // trouble is not that of the steps.
  std::string idle(int updates) {
    try {
      if (!device_.is_cuda()) throw InputError(fmt::format("found the device {}; allowed: a GPU", device_.str()));
      return idle_answer(updates);
    } catch (const std::exception& error) {
      const std::string why = error.what();
      return nlohmann::json{{"failed", why.substr(0, why.find('\n'))}}.dump();
    }
  }
  // Milliseconds of an update by operator, the most expensive first, and the rate of products.
  std::string profile(int updates) {
    const auto times = operator_times([&] {
      for (int i = 0; i < updates; ++i) update();
      updater_.finish();
      finish_device(device_);
    });
    std::string rows;
    for (const auto& [name, time] : times) {
      rows += fmt::format("{}[{},{},{}]", rows.empty() ? "" : ",", nlohmann::json(name).dump(), number_text(1e3 * time.seconds / updates),
                          number_text(static_cast<double>(time.calls) / updates));
    }
    return fmt::format("{{\"product_flops\":{},\"operators\":[{}]}}",
                       number_text(product_rate(config_.precision.compute == Precision::kBf16 ? at::kBFloat16 : at::kFloat, device_)),
                       rows);
  }
  std::string memory() const { return fmt::format("{{\"peak_bytes\":{}{}}}", process_memory().peak_bytes, device_peak_field(device_)); }

 private:
  std::string idle_answer(int updates) {
    finish_device(device_);
    const double share = gpu_idle_share([&] {
      for (int i = 0; i < updates; ++i) update();
      updater_.finish();
      finish_device(device_);
    });
    return fmt::format("{{\"gpu_idle\":{}}}", number_text(share));
  }
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

int serve(const StepArguments& a) {
  StepServer server(a);
  std::cout << server.ready() << std::endl;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    int updates = 0;
    if (line == "step") {
      std::cout << server.step() << std::endl;
    } else if (line == "memory") {
      std::cout << server.memory() << std::endl;
    } else if (std::sscanf(line.c_str(), "idle %d", &updates) == 1 && updates > 0) {
      std::cout << server.idle(updates) << std::endl;
    } else if (std::sscanf(line.c_str(), "profile %d", &updates) == 1 && updates > 0) {
      std::cout << server.profile(updates) << std::endl;
    } else {
      throw InputError(fmt::format("step: found '{}'; allowed: step, idle N, profile N, memory, quit", line));
    }
  }
  std::cout << server.memory() << std::endl;
  return 0;
}

}  // namespace

void add_step(CLI::App& app, Action& run) {
  auto a = std::make_shared<StepArguments>();
  CLI::App* command = app.add_subcommand("step", "Single updates on request, over standard input: step, idle N, profile N, memory, quit");
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
  command->add_option("--thread-work", a->threads, "")->check(CLI::IsMember(all_words<ThreadWork>()));
  command->callback([a, &run] { run = [a] { return serve(*a); }; });
}

}  // namespace meristem::bench
