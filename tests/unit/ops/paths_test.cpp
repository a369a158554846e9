// Which path a config gets, above all: `auto` and kernels that no GPU has run.
#include "ops/paths.h"

#include "core/errors.h"
#include "support/catch.h"

using namespace meristem;
using namespace meristem::ops;

namespace {

constexpr const char* kAllOperators[] = {"attention", "cross_entropy", "adamw", "rms_norm", "rope", "swiglu", "depth_attention", "experts"};
const at::Device kGpu(at::kCUDA, 0);

bool yes(std::string_view) { return true; }
bool no(std::string_view) { return false; }
bool only_adamw(std::string_view op) { return op == "adamw"; }

KernelsConfig all_of(const std::string& asked) {
  KernelsConfig config;
  config.attention = config.cross_entropy = config.adamw = config.rms_norm = config.rope = config.swiglu = asked;
  return config;
}

}  // namespace

TEST_CASE("auto never picks a CUDA kernel that no GPU has run") {
  const std::string unproven = describe(resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {yes, no}));
  CHECK(unproven.find("fused") == std::string::npos);
  // As the repository says it today, were every kernel linked.
  const std::string today = describe(resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {yes, kernel_proven}));
  for (const char* op : kAllOperators) CHECK((today.find(std::string(op) + " fused") != std::string::npos) == kernel_proven(op));
}

TEST_CASE("auto picks a kernel that is proven and linked, and only that") {
  const Paths paths = resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {yes, only_adamw});
  CHECK(paths.adamw == Path::kFused);
  CHECK(paths.attention == Path::kLibrary);
  CHECK(resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {no, yes}).adamw == Path::kLibrary);
}

TEST_CASE("fused runs an unproven kernel that is asked for by name, and is an error where there is none") {
  CHECK(resolve_paths(all_of("fused"), kGpu, at::kBFloat16, {yes, no}).attention == Path::kFused);
  CHECK_THROWS_AS(resolve_paths(all_of("fused"), kGpu, at::kBFloat16, {no, yes}), InputError);
  CHECK_THROWS_AS(resolve_paths(all_of("fused"), kGpu, at::kDouble, {yes, yes}), InputError);
}

TEST_CASE("attention's own CUDA kernel takes bf16 and head dims 64 and 128; elsewhere auto has the library and fused is an error that says so") {
  const KernelsConfig automatic = all_of("auto");
  KernelsConfig fused;
  fused.attention = "fused";
  for (const std::int64_t head_dim : {64, 128}) {
    CHECK(resolve_paths(automatic, kGpu, at::kBFloat16, {yes, yes}, head_dim).attention == Path::kFused);
    CHECK(resolve_paths(fused, kGpu, at::kBFloat16, {yes, no}, head_dim).attention == Path::kFused);
  }
  const auto cannot = [&](at::ScalarType compute, std::int64_t head_dim) {
    CHECK(resolve_paths(automatic, kGpu, compute, {yes, yes}, head_dim).attention == Path::kLibrary);
    CHECK_THROWS_WITH(resolve_paths(fused, kGpu, compute, {yes, yes}, head_dim),
                      Catch::Contains("kernels.attention: fused cannot run on cuda:0") && Catch::Contains("BFloat16, head dims 64 and 128") &&
                          Catch::Contains("allowed: reference, library, auto"));
  };
  cannot(at::kFloat, 64);
  cannot(at::kBFloat16, 32);
  cannot(at::kBFloat16, 96);
  CHECK_THROWS_AS(resolve_paths(fused, at::kCPU, at::kBFloat16, {yes, yes}, 64), InputError);
}

TEST_CASE("the CUDA kernels of depth attention and experts take bf16 alone") {
  for (auto KernelsConfig::*op : {&KernelsConfig::depth_attention, &KernelsConfig::experts}) {
    KernelsConfig fused;
    fused.*op = "fused";
    CHECK_NOTHROW(resolve_paths(fused, kGpu, at::kBFloat16, {yes, no}));
    CHECK_THROWS_WITH(resolve_paths(fused, kGpu, at::kFloat, {yes, yes}), Catch::Contains("its kernel takes BFloat16"));
  }
  CHECK(resolve_paths(KernelsConfig{}, kGpu, at::kFloat, {yes, yes}).experts == Path::kLibrary);
  CHECK(resolve_paths(KernelsConfig{}, kGpu, at::kFloat, {yes, yes}).depth_attention == Path::kReference);
}
