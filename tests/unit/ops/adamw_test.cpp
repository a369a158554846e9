#include "ops/adamw.h"

#include <cmath>

#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

namespace {

ops::AdamwSegment segment_of(std::int64_t count, bool half) {
  torch::manual_seed(7);
  ops::AdamwSegment segment{torch::randn({count}), torch::randn({count}), torch::randn({count}) * 0.1, torch::rand({count}) * 0.1, {}, 5};
  if (half) segment.half = torch::zeros({count}, torch::kBFloat16);
  return segment;
}

}  // namespace

TEST_CASE("all paths of AdamW do the written formula") {
  const ops::AdamwSettings settings{0.9, 0.95, 1e-8, 0.1};
  const at::Tensor lr = torch::scalar_tensor(1e-2), scale = torch::scalar_tensor(0.25);
  const ops::AdamwSegment start = segment_of(1003, false);
  // The formula in double, element by element.
  const at::Tensor g = start.grad.to(torch::kDouble) * 0.25;
  const at::Tensor m = start.exp_avg.to(torch::kDouble) * 0.9 + g * (1 - 0.9),
                   v = start.exp_avg_sq.to(torch::kDouble) * 0.95 + g * g * (1 - 0.95);
  const at::Tensor p = start.master.to(torch::kDouble) * (1 - 1e-2 * 0.1) -
                       1e-2 * (m / (1 - std::pow(0.9, 5))) / ((v / (1 - std::pow(0.95, 5))).sqrt() + 1e-8);
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const bool half : {false, true}) {
      ops::AdamwSegment segment = segment_of(1003, half);
      ops::adamw_step(segment, lr, scale, settings, path);
      INFO("path " << static_cast<int>(path));
      CHECK(test::max_error(segment.master, p) < 1e-6);
      CHECK(test::max_error(segment.exp_avg, m) < 1e-6);
      CHECK(test::max_error(segment.exp_avg_sq, v) < 1e-6);
      if (half) CHECK(torch::equal(segment.half, segment.master.to(torch::kBFloat16)));
    }
  }
}

TEST_CASE("under a scale that is not finite nothing changes") {
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      ops::AdamwSegment segment = segment_of(1003, true);
      segment.half.copy_(segment.master);
      const ops::AdamwSegment before = segment_of(1003, true);
      ops::adamw_step(segment, torch::scalar_tensor(1e-2), torch::scalar_tensor(bad), {0.9, 0.95, 1e-8, 0.1}, path);
      INFO("path " << static_cast<int>(path));
      CHECK(torch::equal(segment.master, before.master));
      CHECK(torch::equal(segment.exp_avg, before.exp_avg));
      CHECK(torch::equal(segment.exp_avg_sq, before.exp_avg_sq));
      CHECK(torch::equal(segment.half, before.master.to(torch::kBFloat16)));
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
