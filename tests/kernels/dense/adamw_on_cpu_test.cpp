// The source of AdamW and of the squared norm on the CPU layer.
#include <limits>

#include "adamw/adamw.h"
#include "kernels/dense/adamw.h"
#include "kernels/dense/cpu_memory.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::test;
using kernels::device::host::Grid;

TEST_CASE("every element of every segment is updated once, and nothing else is touched") {
  for (const AdamwCase& one : adamw_cases()) {
    INFO(one.name);
    CHECK(adamw_faults<CpuMemory>(one) == "");
  }
}

TEST_CASE("under a clip factor that is not finite nothing changes") {
  for (const float clip : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    CHECK(adamw_faults<CpuMemory>({"", {4096, 5}, 0}, 0, clip) == "");
  }
}

TEST_CASE("AdamW's whole tiles are read and written in full sectors") {
  Grid::current().traffic.clear();
  CHECK(adamw_faults<CpuMemory>({"", {4096}, 0}) == "");
  for (const auto& [line, traffic] : kernels::device::host::by_line(Grid::current().traffic)) {
    INFO(line);
    CHECK(traffic.sectors == traffic.ideal_sectors);
  }
}

TEST_CASE("buffers that are not aligned take scalar accesses") {
  CHECK(adamw_faults<CpuMemory>({"", {4, 2048, 2052}, 4}, 1) == "");
  kernels::device::host::Array<float> memory(65);
  kernels::detail::AdamwLaunch launch{};
  launch.buffers = {memory.data() + 1, memory.data(), memory.data(), memory.data(), nullptr};
  const kernels::AdamwSegment segment{0, 16, 1, 1, 0};
  std::int32_t tiles = 0;
  CHECK(kernels::detail::fill_adamw_launch(launch, &segment, 1, 0, tiles) == 1);
  CHECK(tiles == 1);
  CHECK_FALSE(launch.vectorised);
  launch.buffers.master = memory.data();
  kernels::detail::fill_adamw_launch(launch, &segment, 1, 0, tiles);
  CHECK(launch.vectorised);
}

TEST_CASE("the squared norm agrees with a sum in order and repeats its bits, in any schedule") {
  for (const std::int64_t count : {0, 1, 3, 4, 1023, 4096, 4097, 50003}) {
    INFO(count);
    CHECK(squared_norm_faults<CpuMemory>(count) == "");
  }
  const auto norm_of = [](const auto& values, std::uint32_t seed) {
    kernels::device::host::Array<double> partials(kernels::kSquaredNormPartials), result(1);
    Grid::current().settings.seed = seed;
    kernels::squared_norm(values.data(), static_cast<std::int64_t>(values.size()), partials.data(), result.data(), nullptr);
    Grid::current().settings.seed = 0;
    return result[0];
  };
  kernels::device::host::Array<float> values(20001);
  fill_normal(values, 3);
  CHECK(norm_of(values, 0) == norm_of(values, 7));
  values[20000] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(norm_of(values, 0)));
  values[17] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(norm_of(values, 0)));
}
