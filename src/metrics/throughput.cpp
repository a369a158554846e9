#include "metrics/throughput.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <string>

#include <malloc.h>

namespace meristem {
namespace {

struct Peak {
  std::string_view name;  // a part of the device's name
  double flops;
};

// From the makers' data sheets: bf16, dense, fp32 accumulation. The first match counts, so the longer name of a family comes first.
constexpr std::array kPeaks{Peak{"GB200", 2500e12},       Peak{"B200", 2250e12},       Peak{"B100", 1750e12},      Peak{"GH200", 989e12},
                            Peak{"H200", 989e12},         Peak{"H100 PCIe", 756e12},   Peak{"H100 NVL", 835e12},   Peak{"H100", 989e12},
                            Peak{"H800 PCIe", 756e12},    Peak{"H800", 989e12},        Peak{"H20", 148e12},        Peak{"A100", 312e12},
                            Peak{"A800", 312e12},         Peak{"L40S", 362e12},        Peak{"L40", 181e12},        Peak{"L4", 121e12},
                            Peak{"A10G", 70e12},          Peak{"A10", 125e12},         Peak{"A30", 165e12},        Peak{"A40", 149.7e12},
                            Peak{"RTX 6000 Ada", 364e12}, Peak{"RTX A6000", 154.8e12}, Peak{"RTX 5090", 209.5e12}, Peak{"RTX 4090", 165e12},
                            Peak{"RTX 4080", 97.5e12},    Peak{"RTX 3090", 71e12}};

// "A10" names the A10 alone, not the A100: a match must end where a word does.
bool names(std::string_view device, std::string_view part) {
  for (std::size_t at = device.find(part); at != std::string_view::npos; at = device.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    const auto in_word = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
    const bool starts = at == 0 || !in_word(device[at - 1]);
    if (starts && (end == device.size() || !in_word(device[end]))) return true;
  }
  return false;
}

}  // namespace

void Throughput::add_step(double seconds, const Amounts& amounts) {
  steps_.push_back({seconds, amounts});
  if (steps_.size() > window_) steps_.pop_front();
}

void Throughput::reset() { steps_.clear(); }

// Summed afresh: a running sum would drift over a million steps.
Throughput::Step Throughput::sums() const {
  Step sum{0, {}};
  for (const Step& step : steps_) {
    sum.seconds += step.seconds;
    sum.amounts.positions += step.amounts.positions;
    sum.amounts.real += step.amounts.real;
    sum.amounts.trained += step.amounts.trained;
    sum.amounts.flops += step.amounts.flops;
  }
  if (steps_.empty() || sum.seconds <= 0) sum.seconds = std::numeric_limits<double>::quiet_NaN();
  return sum;
}

double Throughput::seconds_per_step() const { return sums().seconds / static_cast<double>(steps_.size()); }

Throughput::Amounts Throughput::per_second() const {
  const auto [seconds, all] = sums();
  return {all.positions / seconds, all.real / seconds, all.trained / seconds, all.flops / seconds};
}

std::optional<double> peak_bf16_flops(std::string_view device_name) {
  for (const Peak& peak : kPeaks) {
    if (names(device_name, peak.name)) return peak.flops;
  }
  return std::nullopt;
}

std::optional<double> mfu(double flops_per_second, std::string_view device_name, int devices) {
  const std::optional<double> peak = peak_bf16_flops(device_name);
  if (!peak) return std::nullopt;
  return flops_per_second / (*peak * devices);
}

double idle_share(std::vector<BusyInterval> busy) {
  if (busy.empty()) return 0;
  std::sort(busy.begin(), busy.end(), [](const BusyInterval& a, const BusyInterval& b) { return a.begin < b.begin; });
  std::int64_t idle = 0, until = busy.front().begin;
  for (const BusyInterval& one : busy) {
    idle += std::max<std::int64_t>(0, one.begin - until);
    until = std::max(until, one.end);
  }
  const std::int64_t all = until - busy.front().begin;
  return all > 0 ? static_cast<double>(idle) / static_cast<double>(all) : 0;
}

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    // "VmHWM:	  123456 kB"
    if (line.starts_with("VmRSS:")) memory.resident_bytes = std::stoll(line.substr(6)) * 1024;
    if (line.starts_with("VmHWM:")) memory.peak_bytes = std::stoll(line.substr(6)) * 1024;
  }
  return memory;
}

void forget_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // proc(5): resets the peak resident set
}

}  // namespace meristem
