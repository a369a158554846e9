// Runs a piece of device code on the CPU layer, and says which fault a check found.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "device/layer.h"

namespace meristem::test {

namespace dev = kernels::device;

inline void on_cpu(int threads, int shared_bytes, const std::function<void()>& body, dev::host::Settings settings = {}) {
  auto& grid = dev::host::Grid::current();
  grid.settings = settings;
  grid.run(1, threads, shared_bytes, body);
}

struct Found {
  std::optional<dev::host::Fault> fault;
  std::string text;
};

inline Found found_by(int threads, int shared_bytes, const std::function<void()>& body, dev::host::Settings settings = {}) {
  try {
    on_cpu(threads, shared_bytes, body, settings);
    return {};
  } catch (const dev::host::Report& report) {
    return {report.fault, report.what()};
  }
}

}  // namespace meristem::test
