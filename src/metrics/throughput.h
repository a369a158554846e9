// How fast a run is and what it takes of the machine: tokens and FLOPs a second over the last steps, the share of the device's peak (MFU),
// how much of its time a device did nothing, memory of the process.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <vector>

namespace meristem {

// Rates over a sliding window of steps. Give it only time spent on steps: a validation or a checkpoint between two steps is not speed.
class Throughput {
 public:
  explicit Throughput(std::size_t window = 20) : window_(window) {}

  // positions: all inputs, padding among them; real: those that are tokens; trained: targets that count in the loss.
  struct Amounts {
    double positions = 0, real = 0, trained = 0, flops = 0;
  };
  void add_step(double seconds, const Amounts& amounts);
  // The model changed: what was measured says nothing about the next steps.
  void reset();
  // NaN before the first step.
  double seconds_per_step() const;
  Amounts per_second() const;

 private:
  struct Step {
    double seconds;
    Amounts amounts;
  };
  std::size_t window_;
  std::deque<Step> steps_;

  Step sums() const;
};

// Peak of dense bf16 tensor-core math in FLOP/s by the device's name as the driver gives it ("NVIDIA H100 80GB HBM3"); nothing for
// CPUs and for devices that the table does not know.
std::optional<double> peak_bf16_flops(std::string_view device_name);

// Model FLOPs utilisation: achieved / (peak of one device x devices).
std::optional<double> mfu(double flops_per_second, std::string_view device_name, int devices = 1);

// From begin to before end, in nanoseconds.
struct BusyInterval {
  std::int64_t begin, end;
};

// The share of the time between the first begin and the last end in which none of the intervals runs: 0 to 1. They may overlap, as streams'
// do, and come in any order. 0 where there are none.
double idle_share(std::vector<BusyInterval> busy);

// Of this process, as the kernel counts it.
struct ProcessMemory {
  std::int64_t resident_bytes = 0;  // now (VmRSS)
  std::int64_t peak_bytes = 0;      // the most it ever was (VmHWM)
};
// Zeros where /proc is missing.
ProcessMemory process_memory();

// Gives freed memory back and forgets the peak so far, which then is what the process holds now. For benchmarks.
void forget_peak_memory();

}  // namespace meristem
