#include "bench/harness.h"

#include <algorithm>
#include <chrono>
#include <iostream>

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>

#include "bench/commands.h"
#include "ops/paths.h"

namespace meristem::bench {
namespace {

constexpr int kFewest = 5, kMost = 60;  // timed rounds

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void print(const nlohmann::json& line) { std::cout << line.dump() << std::endl; }

}  // namespace

void Bench::empty_caches() {
  if (!settings_.device.is_cuda()) return;
  if (!flush_.defined()) flush_ = torch::empty({std::int64_t{256} << 20}, torch::dtype(torch::kByte).device(settings_.device));
  flush_.zero_();  // larger than any L2, and time for the host to queue what follows
}

double Bench::seconds_of(const Program& program) {
  if (!settings_.device.is_cuda()) {
    const double begin = now();
    program.run();
    return now() - begin;
  }
  empty_caches();
  c10::Event begin(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT), end(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
  const c10::Stream stream = at::accelerator::getCurrentStream(settings_.device.index());
  begin.record(stream);
  program.run();
  end.record(stream);
  end.synchronize();
  return begin.elapsedTime(end) / 1000;
}

std::vector<double> Bench::medians(const std::vector<Program>& programs) {
  for (const Program& program : programs) program.run();  // libraries set up, memory taken
  if (settings_.once) return std::vector<double>(programs.size(), 0);
  std::vector<std::vector<double>> seconds(programs.size());
  const double begin = now();
  const int fewest = settings_.tiny ? 1 : kFewest;
  for (int round = 0; round < kMost && (round < fewest || now() - begin < settings_.seconds_each); ++round) {
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const std::size_t program = (i + static_cast<std::size_t>(round)) % programs.size();
      seconds[program].push_back(seconds_of(programs[program]));
    }
    if (settings_.tiny) break;
  }
  std::vector<double> out;
  for (auto& each : seconds) out.push_back(median(std::move(each)));
  return out;
}

void Bench::compare(const std::string& subject, const std::string& name, const std::vector<Program>& programs, nlohmann::json fields) {
  nlohmann::json line{{"subject", subject}, {"case", name}, {"ours", programs.front().name}};
  if (fields.is_object()) line.update(fields);
  try {
    const auto seconds = medians(programs);
    for (std::size_t i = 0; i < programs.size(); ++i) line["seconds"][programs[i].name] = seconds[i];
  } catch (const std::exception& error) {
    line["failed"] = std::string(error.what()).substr(0, 300);
  }
  print(line);
}

void Bench::compare_with_copy(const std::string& subject, const std::string& name, const Program& ours, double bytes,
                              nlohmann::json fields) {
  nlohmann::json line{{"subject", subject}, {"case", name}, {"ours", ours.name}, {"bytes", bytes}};
  if (fields.is_object()) line.update(fields);
  try {
    const double copy = copy_bandwidth(), seconds = medians({ours}).front();
    line["seconds"][ours.name] = seconds;
    line["copy_bytes_per_second"] = copy;
    if (seconds > 0) line["copy_share"] = bytes / seconds / copy;
  } catch (const std::exception& error) {
    line["failed"] = std::string(error.what()).substr(0, 300);
  }
  print(line);
}

double Bench::copy_bandwidth() {
  if (copy_bandwidth_ > 0 || settings_.once) return std::max(copy_bandwidth_, 1.0);
  const std::int64_t count = settings_.tiny ? 1 << 16 : std::int64_t{256} << 20;
  const at::Tensor from = torch::rand({count}, fp32()), to = torch::empty_like(from);
  const double seconds = medians({{"copy", [&] { at::Tensor(to).copy_(from); }}}).front();
  return copy_bandwidth_ = 8.0 * static_cast<double>(count) / seconds;
}

std::int64_t Bench::peak_bytes(const std::function<void()>& run) const {
  if (!settings_.device.is_cuda()) return 0;
  const c10::DeviceIndex index = settings_.device.index();
  run();
  at::accelerator::synchronizeDevice(index);
  at::accelerator::resetPeakStats(index);
  const std::int64_t before = at::accelerator::getDeviceStats(index).allocated_bytes[0].current;
  run();
  at::accelerator::synchronizeDevice(index);
  return at::accelerator::getDeviceStats(index).allocated_bytes[0].peak - before;
}

ops::Path our_path(std::string_view op, const Bench& bench) {
  if (bench.settings().device.is_cuda()) return ops::cuda_kernel_linked(op) ? ops::Path::kFused : ops::Path::kLibrary;
  return op == "attention" || op == "experts" ? ops::Path::kLibrary : ops::Path::kFused;
}

std::string our_name(ops::Path path) { return "meristem " + std::string(ops::path_name(path)); }

void run_backward(const at::Tensor& output, const std::vector<at::Tensor>& inputs, const at::Tensor& d_output) {
  torch::autograd::grad({output}, inputs, {d_output}, /*retain_graph=*/true);
}

}  // namespace meristem::bench
