// Each check of the CPU layer finds the fault that is planted for it, and is silent on the sound version. Bank conflicts, sectors and work
// are what is counted by hand.
#include <cstdint>

#include "kernels/on_cpu.h"
#include "support/catch.h"

using namespace meristem::test;
using dev::host::Fault;

namespace {

dev::SharedAddress word(int i) { return dev::shared_base() + 4u * static_cast<unsigned>(i); }

// Thread i writes word i and reads its neighbour's in the next warp.
Found exchange(bool with_barrier, std::uint32_t seed) {
  dev::host::Settings settings;
  settings.seed = seed;
  return found_by(
      64, 256,
      [=] {
        const int i = dev::thread_index();
        dev::sts(word(i), i);
        if (with_barrier) dev::barrier();
        (void)dev::lds<int>(word((i + 32) % 64));
      },
      settings);
}

dev::host::LineTraffic only_line(int shared_bytes, const std::function<void()>& body) {
  Grid& grid = Grid::current();
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
  Grid& grid = Grid::current();
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

TEST_CASE("a removed barrier is a race in every schedule") {
  for (const std::uint32_t seed : {0u, 1u, 2u, 3u}) {
    CHECK(exchange(true, seed).fault == std::nullopt);
    const Found found = exchange(false, seed);
    CHECK(found.fault == Fault::kRace);
    CHECK(found.text.find("detectors_test.cpp:") != std::string::npos);
  }
}

TEST_CASE("a write after a read needs the barrier too") {
  const auto body = [](bool with_barrier) {
    return found_by(64, 256,
                    [=] {
                      const int i = dev::thread_index();
                      dev::sts(word(i), i);
                      dev::barrier();
                      (void)dev::lds<int>(word(63 - i));
                      if (with_barrier) dev::barrier();
                      dev::sts(word(i), 0);
                    })
        .fault;
  };
  CHECK(body(true) == std::nullopt);
  CHECK(body(false) == Fault::kRace);
}

TEST_CASE("lanes of a warp need warp_sync, and a shuffle is none") {
  const auto body = [](int kind) {
    return found_by(32, 128,
                    [=] {
                      const int i = dev::thread_index();
                      dev::sts(word(i), i);
                      if (kind == 1) dev::warp_sync();
                      if (kind == 2) (void)dev::shuffle(i, 0);
                      (void)dev::lds<int>(word(31 - i));
                    })
        .fault;
  };
  CHECK(body(1) == std::nullopt);
  CHECK(body(0) == Fault::kRace);
  CHECK(body(2) == Fault::kRace);
}

TEST_CASE("a named barrier orders those who meet at it, and nobody else") {
  const auto body = [](int reader) {
    return found_by(96, 128,
                    [=] {
                      const int warp = dev::warp_index();
                      if (dev::thread_index() == 0) dev::sts(word(0), 1);
                      if (warp < 2) dev::named_barrier_sync(3, 64);
                      if (warp == reader) (void)dev::lds<int>(word(0));
                    })
        .fault;
  };
  CHECK(body(1) == std::nullopt);
  CHECK(body(2) == Fault::kRace);
}

TEST_CASE("who only arrives at a barrier has seen nothing") {
  CHECK(found_by(64, 64, [] {
          if (dev::thread_index() == 32) dev::sts(word(0), 1);
          if (dev::warp_index() == 0) dev::named_barrier_arrive(1, 64);
          if (dev::warp_index() == 1) dev::named_barrier_sync(1, 64);
          if (dev::thread_index() == 0) (void)dev::lds<int>(word(0));
        }).fault == Fault::kRace);
}

TEST_CASE("a removed wait, a removed commit, and copies that nobody waits for") {
  dev::host::Array<std::uint32_t> source(256);
  const auto body = [&](bool commit, bool wait, bool barrier) {
    return found_by(64, 1024,
                    [&, commit, wait, barrier] {
                      const int i = dev::thread_index();
                      dev::cp_async_16(word(4 * i), dev::gptr<const std::uint32_t>(source.data()) + 4 * i, true);
                      if (commit) dev::cp_async_commit();
                      if (wait) dev::cp_async_wait<0>();
                      if (barrier) dev::barrier();
                      (void)dev::lds<std::uint32_t>(word(4 * (63 - i)));
                    })
        .fault;
  };
  CHECK(body(true, true, true) == std::nullopt);
  CHECK(body(true, false, true) == Fault::kInFlight);
  CHECK(body(false, true, true) == Fault::kInFlight);
  CHECK((body(true, true, false) == Fault::kRace || body(true, true, false) == Fault::kInFlight));
  CHECK(found_by(32, 512, [&] {
          dev::cp_async_16(word(4 * dev::thread_index()), dev::gptr<const std::uint32_t>(source.data()), true);
          dev::cp_async_commit();
        }).fault == Fault::kInFlight);
}

TEST_CASE("ldmatrix is over for the whole warp, but its rows must have been written") {
  const auto body = [](bool sync) {
    return found_by(32, 512,
                    [=] {
                      const int i = dev::thread_index();
                      dev::sts(word(4 * i), dev::Vec4{});
                      if (sync) dev::warp_sync();
                      dev::Registers<std::uint32_t, 4> fragment;
                      dev::ldmatrix_x4(fragment, word(4 * i));
                      dev::sts(word(4 * (31 - i)), dev::Vec4{});  // overwriting after it is sound
                    })
        .fault;
  };
  CHECK(body(true) == std::nullopt);
  CHECK(body(false) == Fault::kRace);
}

TEST_CASE("out of bounds: global, shared, registers, another buffer, a buffer's end") {
  dev::host::Array<float> first(100), second(100);
  const auto load = [&](float* base, std::int64_t at) {
    return found_by(1, 0, [=] { (void)dev::ldg<float>(dev::gptr<float>(base) + at); }).fault;
  };
  CHECK(load(first.data(), 99) == std::nullopt);
  CHECK(load(first.data(), 100) == Fault::kBounds);
  CHECK(load(first.data(), -1) == Fault::kBounds);
  CHECK(load(first.data(), second.data() - first.data()) == Fault::kBounds);  // a good address, through the wrong pointer
  CHECK(load(nullptr, 0) == Fault::kBounds);
  float outside = 0;
  CHECK(load(&outside, 0) == Fault::kBounds);
  CHECK(found_by(1, 0, [&] { dev::stg(dev::gptr<float>(first.data()) + 98, dev::Vec4{}); }).fault == Fault::kBounds);
  CHECK(found_by(1, 0, [&] { dev::stg(dev::gptr<float>(first.data()) + 2, dev::Vec4{}); }).fault == Fault::kMisaligned);
  CHECK(found_by(1, 64, [] { dev::sts(word(16), 1); }).fault == Fault::kBounds);
  CHECK(found_by(1, 64, [] { dev::sts(0u, 1); }).fault == Fault::kBounds);
  CHECK(found_by(1, 64, [] { dev::sts(dev::shared_base() + 2, 1); }).fault == Fault::kMisaligned);
  CHECK(found_by(1, 0, [] {
          dev::Registers<float, 4> four;
          four[4] = 0;
        }).fault == Fault::kBounds);
  CHECK(found_by(32, 300 * 1024, [] {}).fault == Fault::kBounds);  // more shared memory than an SM has
}

TEST_CASE("divergent collectives, lanes that are gone, a lane that takes no part") {
  const auto two_places = [] {  // outside of CHECK, whose arguments all stand on one line
    if (dev::lane_index() == 3) {
      (void)dev::shuffle(1, 0);
    } else {
      (void)dev::shuffle(2, 0);
    }
  };
  CHECK(found_by(32, 0, two_places).fault == Fault::kDivergence);
  CHECK(found_by(32, 0, [] {
          if (dev::lane_index() == 3) return;
          (void)dev::shuffle(1, 0);
        }).fault == Fault::kDivergence);
  CHECK(found_by(32, 0, [] {
          if (dev::lane_index() < 16) (void)dev::shuffle(1, 20, 0xFFFFu);
        }).fault == Fault::kDivergence);
  CHECK(found_by(32, 0, [] { (void)dev::shuffle(1, 0, 0xFFFFu); }).fault == Fault::kDivergence);
}

TEST_CASE("a deadlock says who waits where") {
  const Found found = found_by(64, 0, [] {
    if (dev::warp_index() == 0) dev::barrier();
  });
  CHECK(found.fault == Fault::kDeadlock);
  CHECK(found.text.find("32 of 64 threads at barrier 0") != std::string::npos);
  CHECK(found_by(64, 0, [] { dev::named_barrier_sync(1 + dev::warp_index(), 64); }).fault == Fault::kDeadlock);
}

TEST_CASE("accumulators that nobody set are poison") {
  on_cpu(32, 0, [] {
    dev::Registers<float, 4> c;
    dev::Registers<std::uint32_t, 4> a;
    for (int i = 0; i < 4; ++i) a[i] = 0;
    dev::mma_m16n8k16(c, a, 0, 0);
    CHECK(c[0] != c[0]);
  });
}

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
  Grid& grid = Grid::current();
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
  CHECK(grid.work == Work{1, 6, 64, 2, 8, 4, 64 * 16});
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
