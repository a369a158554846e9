// The twin that builds without CUDA link: this program links it, whatever the build.
#include "meristem_kernels/adamw.h"
#include "meristem_kernels/cross_entropy.h"
#include "meristem_kernels/rms_norm.h"
#include "meristem_kernels/rope.h"
#include "meristem_kernels/swiglu.h"
#include "support/catch.h"

namespace kernels = meristem::kernels;

TEST_CASE("without CUDA the kernels say that they are not there") {
  CHECK_FALSE(kernels::available());
  CHECK(kernels::device_name().empty());
  CHECK_THROWS_AS(kernels::adamw({}, nullptr, 0, {}, nullptr, nullptr, nullptr, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::cross_entropy({}, nullptr, nullptr, nullptr, false, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::rms_norm_forward({}, nullptr, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::rope({}, nullptr, 0, 1, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::swiglu_forward({}, nullptr, nullptr, nullptr), std::runtime_error);
  CHECK_THROWS_AS(kernels::squared_norm(nullptr, 0, nullptr, nullptr, nullptr), std::runtime_error);
}
