// What a GPU did while some work ran, as LibTorch's profiler saw it.
#pragma once

#include <functional>

namespace meristem::cli {

// The share of the time from the first kernel, copy or fill of `work` to the end of the last in which the GPU ran none. `work` ends with
// the GPU's own end. Tracing makes launches slower, so this is at most too high. InputError where the profiler saw no GPU at all.
double gpu_idle_share(const std::function<void()>& work);

}  // namespace meristem::cli
