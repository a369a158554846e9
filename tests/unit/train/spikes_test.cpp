#include "train/spikes.h"

#include <cmath>

#include "support/catch.h"

using namespace meristem;

TEST_CASE("a spike is seen, a trend is not, and an earlier spike does not hide the next") {
  SpikeDetector detector;
  for (int i = 0; i < 100; ++i) CHECK_FALSE(detector.observe(3.0 - 0.001 * i + 0.02 * std::sin(i), 1.0 + 0.1 * std::cos(i)));
  CHECK(detector.observe(9.0, 1.0));
  CHECK(detector.observe(9.0, 1.0));
  CHECK(detector.observe(2.9, 20.0));
  CHECK_FALSE(detector.observe(2.9, 1.0));
}

TEST_CASE("no verdict before there is a window, and only the last 128 steps count") {
  SpikeDetector detector;
  for (std::size_t i = 0; i < SpikeDetector::kMinimum; ++i) CHECK_FALSE(detector.observe(i == 10 ? 100.0 : 1.0, 1.0));
  CHECK(detector.observe(100.0, 1.0));
  for (int i = 0; i < 300; ++i) detector.observe(1.0, 1.0);
  CHECK(detector.losses().size() == SpikeDetector::kWindow);
  SpikeDetector restored(detector.losses(), detector.grad_norms());
  CHECK(restored.observe(1.1, 1.0) == detector.observe(1.1, 1.0));
}
