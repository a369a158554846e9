// Bank conflicts and sectors against hand counts.
#include <cstdint>

#include "kernels/layer/on_cpu.h"
#include "support/catch.h"

using namespace meristem::test;

namespace {

dev::host::LineTraffic only_line(int shared_bytes, const std::function<void()>& body) {
  auto& grid = dev::host::Grid::current();
  grid.traffic.clear();
  on_cpu(32, shared_bytes, body);
  const auto lines = dev::host::by_line(grid.traffic);
  REQUIRE(lines.size() == 1);
  return lines.begin()->second;
}

std::int64_t conflicts_at_stride(std::uint32_t words) {
  return only_line(32 * 128, [=] { (void)dev::lds<int>(dev::shared_base() + 4 * words * static_cast<std::uint32_t>(dev::lane_index())); })
      .bank_conflicts;
}

// Rows of 128 bytes, as an attention tile of head dim 64 has them.
std::int64_t ldmatrix_conflicts(bool swizzled) {
  auto& grid = dev::host::Grid::current();
  dev::host::Settings settings;
  settings.detect = false;  // the rows hold nothing
  grid.traffic.clear();
  on_cpu(
      32, 32 * 128,
      [=] {
        const auto lane = static_cast<std::uint32_t>(dev::lane_index());
        const std::uint32_t chunk = swizzled ? lane % 8 : 0;
        dev::Registers<std::uint32_t, 4> fragment;
        dev::ldmatrix_x4(fragment, dev::shared_base() + lane * 128 + chunk * 16);
      },
      settings);
  return dev::host::by_line(grid.traffic).begin()->second.bank_conflicts;
}

}  // namespace

TEST_CASE("bank conflicts of strided words") {
  CHECK(conflicts_at_stride(1) == 0);
  CHECK(conflicts_at_stride(2) == 1);
  CHECK(conflicts_at_stride(8) == 7);
  CHECK(conflicts_at_stride(32) == 31);
  CHECK(conflicts_at_stride(0) == 0);  // one word for all
  CHECK(conflicts_at_stride(31) == 0);
}

TEST_CASE("wide accesses are served in passes") {
  const auto vec4 = [](std::uint32_t stride) {
    return only_line(32 * 256, [=] { dev::sts(dev::shared_base() + stride * static_cast<std::uint32_t>(dev::lane_index()), dev::Vec4{}); });
  };
  CHECK(vec4(16).bank_conflicts == 0);
  CHECK(vec4(32).bank_conflicts == 4);    // eight lanes over 256 bytes: twice the words of each bank, in four passes
  CHECK(vec4(128).bank_conflicts == 28);  // eight rows in the same four banks, four times
  CHECK(vec4(16).shared_accesses == 1);
}

TEST_CASE("ldmatrix of rows of 128 bytes conflicts unless swizzled") {
  CHECK(ldmatrix_conflicts(true) == 0);
  CHECK(ldmatrix_conflicts(false) == 28);
}

TEST_CASE("work is counted by warps, and copies by lanes") {
  dev::host::Grid& grid = dev::host::Grid::current();
  dev::host::Array<std::uint32_t> from(4);
  grid.work = {};
  on_cpu(64, 64 * 16, [&] {
    dev::cp_async_16(dev::shared_base() + static_cast<std::uint32_t>(dev::thread_index()) * 16, dev::gptr<std::uint32_t>(from.data()),
                     true);
    dev::cp_async_commit();
    dev::cp_async_wait<0>();
    dev::barrier();
    dev::Registers<float, 4> c;
    dev::Registers<std::uint32_t, 4> a;
    for (int i = 0; i < 4; ++i) c[i] = 0, a[i] = 0;
    for (int i = 0; i < 3; ++i) dev::mma_m16n8k16(c, a, 0, 0);
    (void)dev::ballot(true);
    (void)dev::shuffle_xor(1, 1);
    if (dev::lane_index() == 0) dev::stg(dev::gptr<std::uint32_t>(from.data()), std::uint32_t{1});
  });
  CHECK(grid.work == dev::host::Work{1, 6, 64, 2, 8, 4});
}

TEST_CASE("sectors of global accesses") {
  dev::host::Array<float> values(32 * 64);
  const auto sectors = [&](std::int64_t stride) {
    return only_line(0, [&, stride] { (void)dev::ldg<float>(dev::gptr<float>(values.data()) + stride * dev::lane_index()); });
  };
  CHECK(sectors(1).sectors == 4);
  CHECK(sectors(1).ideal_sectors == 4);
  CHECK(sectors(2).sectors == 8);
  CHECK(sectors(64).sectors == 32);
  CHECK(sectors(0).sectors == 1);
}
