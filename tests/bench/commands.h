// The commands of meristem-bench. Each adds itself to the command line and, when chosen, leaves in `run` what the program then does.
#pragma once

#include <functional>
#include <vector>

#include <CLI/CLI.hpp>

#include "data/batch.h"

#include <ATen/core/Tensor.h>

namespace meristem::bench {

using Action = std::function<int()>;  // an exit code

void add_operators(CLI::App& app, Action& run);
void add_step(CLI::App& app, Action& run);
void add_growth(CLI::App& app, Action& run);
void add_variants(CLI::App& app, Action& run);

// Tokens for benchmarks, which need no text. The same batch for the same arguments: `sequences` rows of `length` uniform tokens, no
// document boundaries.
HostBatch random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab);

// Of an odd or even number of values: the upper middle; 0 of none.
double median(std::vector<double> values);

// What the device was told to do is done.
void finish_device(at::Device device);

}  // namespace meristem::bench
