// "Starts" a kernel: runs it to its end. `stream` is not looked at.
#pragma once

#include <cstdint>
#include <string>

#include "device/host/grid.h"

namespace meristem::kernels::device {

template <class Parameters, class Stream>
void launch(const char* name, void (*kernel)(Parameters), std::int64_t blocks, int threads, int shared_bytes, Stream,
            const Parameters& parameters) {
  try {
    host::Grid::current().run(blocks, threads, shared_bytes, [&] { kernel(parameters); });
  } catch (const host::Report& report) {
    throw host::Report(report.fault, std::string(name) + ": " + report.what());
  }
}

}  // namespace meristem::kernels::device
