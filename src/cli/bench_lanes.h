// Models that stand side by side in one process and take turns, step by step, so that a machine that slows down slows all of them.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "models/costs.h"
#include "step/live_model.h"
#include "step/spikes.h"

namespace meristem::cli {

struct BenchLane {
  RunConfig config;
  StageCost cost;
  std::unique_ptr<LiveModel> live;
  SpikeDetector spikes;
  std::vector<double> step_seconds;
};

// A freshly initialised model of the stage.
BenchLane make_bench_lane(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device,
                          const StageCost& cost);

// One update of every lane on random tokens, whose turn is first depends on the round's number (from 1). Seconds are kept where `timed`.
void bench_round(std::vector<BenchLane>& lanes, at::Device device, std::int64_t number, bool timed);

// Of an odd or even number of values: the upper middle; 0 of none.
double median(std::vector<double> values);

void finish_device(at::Device device);

template <class Work>
double seconds_of(at::Device device, Work&& work) {
  finish_device(device);
  const auto begin = std::chrono::steady_clock::now();
  work();
  finish_device(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace meristem::cli
