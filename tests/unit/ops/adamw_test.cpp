#include "ops/adamw.h"

#include <cmath>
#include <limits>

#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

namespace {

constexpr std::int64_t kCount = 1003, kGap = 5;      // elements of a range, and between ranges
constexpr std::int64_t kMaster = 11, kMoments = 23;  // elements before the first range

struct Flat {
  ops::AdamwTensors at;
  std::vector<ops::AdamwRange> ranges;
};

// Three ranges that have had 4, 0 and 90 updates, the middle one without decay; what lies between them belongs to nobody. Masters and
// moments begin with something that belongs to nobody either, so that a range begins elsewhere in each.
Flat three_ranges(bool half) {
  torch::manual_seed(7);
  const std::int64_t total = 3 * (kCount + kGap) + kMoments;
  Flat flat{{torch::randn({total}),
             torch::randn({total}),
             torch::randn({total}) * 0.1,
             torch::rand({total}) * 0.1,
             {},
             torch::tensor({4, 0, 90}, torch::kLong)},
            {}};
  for (std::int64_t r = 0; r < 3; ++r) {
    const std::int64_t begin = r * (kCount + kGap);
    flat.ranges.push_back({begin, begin + kMaster, begin + kMoments, kCount, r == 1 ? 0.0 : 0.1});
  }
  if (!half) return flat;
  flat.at.half = torch::randn({total}).to(torch::kBFloat16);
  for (const ops::AdamwRange& range : flat.ranges) {
    flat.at.half.narrow(0, range.grad, kCount).copy_(flat.at.master.narrow(0, range.master, kCount));
  }
  return flat;
}

at::Tensor in_double(const at::Tensor& flat, std::int64_t begin) { return flat.narrow(0, begin, kCount).to(torch::kDouble); }

// The elements that belong to no range, which begins at `first`.
at::Tensor nobodys(const at::Tensor& flat, std::int64_t first) {
  std::vector<at::Tensor> parts{flat.narrow(0, 0, first)};
  for (std::int64_t r = 0; r < 3; ++r) parts.push_back(flat.narrow(0, first + r * (kCount + kGap) + kCount, kGap));
  return at::cat(parts);
}

}  // namespace

TEST_CASE("all paths of AdamW do the written formula, for every range with its own count and decay, and touch nothing else") {
  const at::Tensor lr = torch::scalar_tensor(1e-2), scale = torch::scalar_tensor(0.25);
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const bool half : {false, true}) {
      INFO("path " << static_cast<int>(path));
      const Flat start = three_ranges(half);
      Flat flat = three_ranges(half);
      ops::adamw_step(flat.at, flat.ranges, lr, scale, {0.9, 0.95, 1e-8}, path);
      CHECK(torch::equal(flat.at.counts_R, start.at.counts_R + 1));
      for (std::size_t r = 0; r < 3; ++r) {
        const ops::AdamwRange& range = start.ranges[r];
        const double t = start.at.counts_R[static_cast<std::int64_t>(r)].item<double>() + 1;
        const at::Tensor g = in_double(start.at.grad, range.grad) * 0.25,
                         m = in_double(start.at.exp_avg, range.moments) * 0.9 + g * (1 - 0.9),
                         v = in_double(start.at.exp_avg_sq, range.moments) * 0.95 + g * g * (1 - 0.95);
        const at::Tensor p = in_double(start.at.master, range.master) * (1 - 1e-2 * range.weight_decay) -
                             1e-2 * (m / (1 - std::pow(0.9, t))) / ((v / (1 - std::pow(0.95, t))).sqrt() + 1e-8);
        CHECK(test::max_error(in_double(flat.at.master, range.master), p) < 1e-6);
        CHECK(test::max_error(in_double(flat.at.exp_avg, range.moments), m) < 1e-6);
        CHECK(test::max_error(in_double(flat.at.exp_avg_sq, range.moments), v) < 1e-6);
        if (half) CHECK(torch::equal(in_double(flat.at.half, range.grad), in_double(flat.at.master.to(torch::kBFloat16), range.master)));
      }
      CHECK(torch::equal(nobodys(flat.at.master, kMaster), nobodys(start.at.master, kMaster)));
      CHECK(torch::equal(nobodys(flat.at.exp_avg, kMoments), nobodys(start.at.exp_avg, kMoments)));
      CHECK(torch::equal(nobodys(flat.at.exp_avg_sq, kMoments), nobodys(start.at.exp_avg_sq, kMoments)));
      if (half) CHECK(torch::equal(nobodys(flat.at.half, 0), nobodys(start.at.half, 0)));
    }
  }
}

TEST_CASE("an update under a scale that is not finite is refused: nothing changes, counts included") {
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Flat flat = three_ranges(true);
      const Flat before = three_ranges(true);
      ops::adamw_step(flat.at, flat.ranges, torch::scalar_tensor(1e-2), torch::scalar_tensor(bad), {0.9, 0.95, 1e-8}, path);
      INFO("path " << static_cast<int>(path));
      CHECK(torch::equal(flat.at.master, before.at.master));
      CHECK(torch::equal(flat.at.exp_avg, before.at.exp_avg));
      CHECK(torch::equal(flat.at.exp_avg_sq, before.at.exp_avg_sq));
      CHECK(torch::equal(flat.at.half, before.at.half));
      CHECK(torch::equal(flat.at.counts_R, before.at.counts_R));
    }
  }
}

TEST_CASE("the gradient norm sees every element and every non-finite one") {
  at::Tensor grad = torch::full({100001}, 2.0f);
  for (const Path path : {Path::kReference, Path::kFused}) {
    CHECK(ops::gradient_norm(grad, path).item<double>() == Approx(2 * std::sqrt(100001.0)).epsilon(1e-6));
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      for (const std::int64_t at : {0, 50000, 100000}) {
        at::Tensor broken = grad.clone();
        broken[at] = bad;
        CHECK_FALSE(std::isfinite(ops::gradient_norm(broken, path).item<double>()));
      }
    }
  }
}

TEST_CASE("bf16 gradients accumulate in fp32") {
  at::Tensor sum = torch::full({37, 3}, 256.0f);
  const at::Tensor small = torch::full({37, 3}, 0.5f, torch::kBFloat16);
  for (int i = 0; i < 64; ++i) ops::accumulate_gradient(sum, small);
  CHECK(torch::equal(sum, torch::full({37, 3}, 288.0f)));  // a bf16 sum would have stayed at 256
}
