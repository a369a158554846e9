#include "metrics/throughput.h"

#include <cmath>
#include <vector>

#include "support/catch.h"

using namespace meristem;

TEST_CASE("rates are sums over the window") {
  Throughput rate(2);
  CHECK(std::isnan(rate.per_second().positions));
  CHECK(std::isnan(rate.seconds_per_step()));
  rate.add_step(100, {1, 1, 1, 1});  // falls out of the window
  rate.add_step(1, {10, 8, 2, 200});
  rate.add_step(3, {10, 4, 0, 200});
  CHECK(rate.per_second().positions == Approx(5));
  CHECK(rate.per_second().real == Approx(3));
  CHECK(rate.per_second().trained == Approx(0.5));
  CHECK(rate.per_second().flops == Approx(100));
  CHECK(rate.seconds_per_step() == Approx(2));
  rate.reset();
  CHECK(std::isnan(rate.per_second().flops));
}

TEST_CASE("peaks of known devices, nothing for others") {
  CHECK(peak_bf16_flops("NVIDIA H100 80GB HBM3") == 989e12);
  CHECK(peak_bf16_flops("NVIDIA H100 PCIe") == 756e12);
  CHECK(peak_bf16_flops("NVIDIA H200") == 989e12);
  CHECK(peak_bf16_flops("NVIDIA A100-SXM4-80GB") == 312e12);
  CHECK(peak_bf16_flops("NVIDIA L40S") == 362e12);
  CHECK(peak_bf16_flops("NVIDIA L4") == 121e12);
  CHECK(peak_bf16_flops("NVIDIA A10") == 125e12);
  CHECK(peak_bf16_flops("NVIDIA GeForce RTX 4090") == 165e12);
  CHECK_FALSE(peak_bf16_flops("NVIDIA GeForce GTX 1080").has_value());
  CHECK_FALSE(peak_bf16_flops("NVIDIA A1000").has_value());
  CHECK_FALSE(peak_bf16_flops("cpu").has_value());
  CHECK(mfu(494.5e12, "NVIDIA H200") == Approx(0.5));
  CHECK(mfu(494.5e12, "NVIDIA H200", 2) == Approx(0.25));
  CHECK_FALSE(mfu(1e12, "cpu").has_value());
}

TEST_CASE("memory of the process grows with what it holds, and the peak stays") {
  constexpr std::size_t kBytes = 64 << 20;
  const ProcessMemory before = process_memory();
  REQUIRE(before.resident_bytes > 0);
  {
    std::vector<char> held(kBytes, 1);
    CHECK(process_memory().resident_bytes >= before.resident_bytes + static_cast<std::int64_t>(kBytes) * 9 / 10);
    CHECK(held[kBytes / 2] == 1);
  }
  CHECK(process_memory().peak_bytes >= before.resident_bytes + static_cast<std::int64_t>(kBytes) * 9 / 10);
}

TEST_CASE("idle is what no interval covers between the first and the last") {
  CHECK(idle_share({}) == 0);
  CHECK(idle_share({{100, 100}}) == 0);
  CHECK(idle_share({{100, 200}}) == 0);
  CHECK(idle_share({{100, 140}, {180, 200}}) == Approx(0.4));
  CHECK(idle_share({{180, 200}, {100, 140}}) == Approx(0.4));               // in any order
  CHECK(idle_share({{100, 190}, {110, 120}, {195, 200}}) == Approx(0.05));  // one within another
  CHECK(idle_share({{100, 150}, {120, 180}, {190, 200}}) == Approx(0.1));   // one over another's end
}
