// Which path a config gets, above all: `auto` and kernels that no GPU has run.
#include "ops/paths.h"

#include "core/errors.h"
#include "support/catch.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using namespace meristem::ops;

namespace {

const at::Device kGpu(at::kCUDA, 0);

// Answers whatever is asked, a kernel's name or its use.
struct Always {
  bool answer;
  using OfName = bool (*)(std::string_view);
  operator OfName() const {
    return answer ? +[](std::string_view) { return true; } : +[](std::string_view) { return false; };
  }
  bool operator()(const KernelUse&) const { return answer; }
};
constexpr Always yes{true}, no{false};
bool only_adamw(const KernelUse& use) { return use.kernel == "adamw"; }

KernelsConfig all_of(const std::string& asked) {
  KernelsConfig config;
  config.set_all(asked);
  return config;
}

}  // namespace

TEST_CASE("auto never picks a CUDA kernel that no GPU has run") {
  const std::string unproven = describe(resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {yes, no}));
  CHECK(unproven.find("fused") == std::string::npos);
  // As the repository says it today, were every kernel linked.
  const std::string today = describe(resolve_paths(all_of("auto"), kGpu, at::kBFloat16, {yes, kernel_proven}));
  CHECK(today.find("fused") == std::string::npos);  // this machine's tests have no GPU, whatever the file lists
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

TEST_CASE(
    "attention's own CUDA kernel takes bf16 and head dims 64 and 128; elsewhere auto has the library and fused is an error that says so") {
  const KernelsConfig automatic = all_of("auto");
  KernelsConfig fused;
  fused.attention = "fused";
  for (const std::int64_t head_dim : {64, 128}) {
    CHECK(resolve_paths(automatic, kGpu, at::kBFloat16, {yes, yes}, {512, head_dim}).attention == Path::kFused);
    CHECK(resolve_paths(fused, kGpu, at::kBFloat16, {yes, no}, {512, head_dim}).attention == Path::kFused);
  }
  const auto cannot = [&](at::ScalarType compute, std::int64_t head_dim) {
    CHECK(resolve_paths(automatic, kGpu, compute, {yes, yes}, {512, head_dim}).attention == Path::kLibrary);
    CHECK_THROWS_WITH(resolve_paths(fused, kGpu, compute, {yes, yes}, {512, head_dim}),
                      Catch::Contains("kernels.attention: fused cannot run on cuda:0") &&
                          Catch::Contains("BFloat16, head dims 64 and 128") && Catch::Contains("allowed: reference, library, auto"));
  };
  cannot(at::kFloat, 64);
  cannot(at::kBFloat16, 32);
  cannot(at::kBFloat16, 96);
}

TEST_CASE("matrix products are our own on a CPU where they are faster, and LibTorch's on a GPU whatever is asked") {
  KernelsConfig asked;
  test::for_each_cpu_level([&] {
    const std::string level = ops::cpu::row_kernels().name;
    const bool wide = level.rfind("avx512", 0) == 0 && !ops::cpu::is_intel(), tiles = ops::cpu::has_amx_bf16();
    const auto found = [&](at::ScalarType type) { return resolve_paths(asked, at::kCPU, type).linear; };
    CHECK(found(at::kFloat) == (wide ? Path::kFused : Path::kLibrary));
    CHECK(found(at::kBFloat16) == (level != "baseline" && !tiles ? Path::kFused : Path::kLibrary));
    CHECK(found(at::kDouble) == Path::kLibrary);
  });
  CHECK(resolve_paths(asked, kGpu, at::kBFloat16, {yes, yes}).linear == Path::kLibrary);
  asked.linear = "fused";
  for (const auto type : {at::kFloat, at::kBFloat16}) CHECK(resolve_paths(asked, at::kCPU, type).linear == Path::kFused);
  CHECK_THROWS_WITH(resolve_paths(asked, at::kCPU, at::kDouble), Catch::Contains("kernels.linear: fused cannot run on cpu"));
  CHECK(resolve_paths(asked, kGpu, at::kBFloat16, {yes, yes}).linear == Path::kLibrary);
  CHECK(resolve_paths(all_of("fused"), kGpu, at::kBFloat16, {yes, yes}).linear == Path::kLibrary);
}

TEST_CASE("what the reference alone computes is never left to another path") {
  KernelsConfig fused, library;
  fused.swiglu = fused.attention = "fused";
  library.swiglu = library.attention = "library";
  ModelShapes capped, geglu;
  capped.score_cap = geglu.geglu = true;
  for (const at::Device device : {at::Device(at::kCPU), kGpu}) {
    for (const KernelsConfig& config : {KernelsConfig{}, library}) {
      CHECK(resolve_paths(config, device, at::kBFloat16, {yes, yes}, capped).attention == Path::kReference);
      CHECK(resolve_paths(config, device, at::kBFloat16, {yes, yes}, geglu).swiglu == Path::kReference);
    }
    CHECK_THROWS_WITH(resolve_paths(fused, device, at::kBFloat16, {yes, yes}, geglu),
                      Catch::Contains("with model.feed_forward.kind: geglu"));
  }
  CHECK_THROWS_WITH(resolve_paths(fused, kGpu, at::kBFloat16, {yes, yes}, capped), Catch::Contains("with model.attention.score_cap"));
}

TEST_CASE("the CUDA kernels of depth attention and experts take bf16 alone") {
  for (std::string KernelsConfig::*op : {&KernelsConfig::depth_attention, &KernelsConfig::experts}) {
    KernelsConfig fused;
    fused.*op = "fused";
    CHECK_NOTHROW(resolve_paths(fused, kGpu, at::kBFloat16, {yes, no}));
    CHECK_THROWS_WITH(resolve_paths(fused, kGpu, at::kFloat, {yes, yes}), Catch::Contains("its kernel takes BFloat16"));
  }
  CHECK(resolve_paths(KernelsConfig{}, kGpu, at::kFloat, {yes, yes}).experts == Path::kLibrary);
  CHECK(resolve_paths(KernelsConfig{}, kGpu, at::kFloat, {yes, yes}).depth_attention == Path::kReference);
}

namespace {

// What `fused` says, or "" where it runs; `auto` must pick it in that case alone.
std::string refusal(std::string KernelsConfig::*op, Path Paths::*path, const ModelShapes& shapes) {
  KernelsConfig fused;
  fused.*op = "fused";
  const bool picked = resolve_paths(KernelsConfig{}, kGpu, at::kBFloat16, {yes, yes}, shapes).*path == Path::kFused;
  try {
    resolve_paths(fused, kGpu, at::kBFloat16, {yes, yes}, shapes);
  } catch (const InputError& error) {
    CHECK_FALSE(picked);
    return error.what();
  }
  CHECK(picked);
  return "";
}

}  // namespace

TEST_CASE("shapes that a CUDA kernel does not take: auto goes on without it, fused says which") {
  const auto depth = [](std::int64_t heads, std::int64_t kv_heads, std::int64_t dim, std::int64_t entries = 16, bool joint = false) {
    return refusal(&KernelsConfig::depth_attention, &Paths::depth_attention,
                   {512, joint ? dim : 64, HeadShape{heads, kv_heads, dim}, joint, entries});
  };
  for (const auto& one : {depth(1, 1, 1024), depth(4, 4, 8), depth(16, 1, 64), depth(8, 1, 128), depth(32, 1, 24), depth(4, 1, 256),
                          depth(4, 4, 64, 128), depth(8, 2, 64, 16, true)}) {
    CHECK(one == "");
  }
  CHECK_THAT(depth(1, 1, 1032), Catch::Contains("with head dim 1032 (its kernel takes multiples of 8 up to 1024)"));
  CHECK_THAT(depth(2, 1, 264), Catch::Contains("head dim 264 (its kernel takes multiples of 8 up to 256)"));
  CHECK_THAT(depth(4, 4, 68), Catch::Contains("head dim 68"));
  CHECK_THAT(depth(8, 1, 136), Catch::Contains("8 query heads a key head of 136 (its kernel takes up to 4)"));
  CHECK_THAT(depth(32, 1, 64), Catch::Contains("32 query heads a key head of 64 (its kernel takes up to 16)"));
  CHECK_THAT(depth(64, 1, 32), Catch::Contains("64 query heads a key head of 32 (its kernel takes up to 32)"));
  CHECK_THAT(depth(4, 4, 64, 129), Catch::Contains("over 129 entries (its kernel takes up to 128)"));
  CHECK_THAT(depth(8, 2, 96, 16, true), Catch::Contains("head dims 64 and 128"));
  const auto experts = [](std::int64_t count, std::int64_t width) {
    return refusal(&KernelsConfig::experts, &Paths::experts, {width, 64, std::nullopt, false, 0, count});
  };
  CHECK(experts(4096, 96) == "");
  CHECK_THAT(experts(4097, 96), Catch::Contains("4097 experts (its kernel takes up to 4096)"));
  CHECK_THAT(experts(8, 100), Catch::Contains("width 100 (its kernel takes multiples of 8)"));
  CHECK(refusal(&KernelsConfig::rms_norm, &Paths::rms_norm, {8192, 64}) == "");
  CHECK_THAT(refusal(&KernelsConfig::rms_norm, &Paths::rms_norm, {8200, 64}), Catch::Contains("width 8200 (its kernel takes up to 8192)"));
  CHECK_THAT(refusal(&KernelsConfig::rms_norm, &Paths::rms_norm, {8192, 64, std::nullopt, false, 0, 0, 8200}),
             Catch::Contains("width 8200"));
  CHECK_THAT(refusal(&KernelsConfig::rope, &Paths::rope, {512, 520}), Catch::Contains("head dim 520"));
}

namespace {

std::string proof(const std::string& fields, const std::string& dtype = "bf16", const std::string& device = "NVIDIA H200") {
  return R"({)" + fields + R"(, "dtype": ")" + dtype + R"(", "device": ")" + device + R"(", "date": "2026-01-01", "commit": "c0ffee"})";
}

// The paths of `auto` where kernels/proven.json had these entries and the GPU were of that name.
Paths with_proofs(const std::vector<std::string>& entries, const ModelShapes& shapes, const std::string& device = "NVIDIA H200",
                  at::ScalarType compute = at::kBFloat16) {
  std::string text;
  for (const std::string& entry : entries) text += (text.empty() ? "" : ", ") + entry;
  const auto known = parse_proofs(R"({"about": "made up", "proofs": [)" + text + "]}");
  return resolve_paths(all_of("auto"), kGpu, compute, {yes, [&](const KernelUse& use) { return is_proven(known, use, device); }}, shapes);
}

ModelShapes attention_of(std::int64_t head_dim, bool packed = false, bool windows = false) {
  ModelShapes shapes;
  shapes.head_dim = head_dim;
  shapes.packed = packed;
  shapes.windows = windows;
  return shapes;
}

const std::string kCausal64 = R"("kernel": "attention", "mask": "causal", "head_dim": 64)",
                  kPacked64 = R"("kernel": "attention", "mask": "packed", "head_dim": 64)",
                  kWindow64 = R"("kernel": "attention", "mask": "window", "head_dim": 64)";

}  // namespace

TEST_CASE("a proof is of a mask, a head dim, a type and a device, and says nothing of another") {
  const auto attention = [](const std::vector<std::string>& entries, const ModelShapes& shapes, const std::string& device = "NVIDIA H200") {
    return with_proofs(entries, shapes, device).attention;
  };
  CHECK(attention({proof(kCausal64)}, attention_of(64)) == Path::kFused);
  CHECK(attention({proof(kCausal64)}, attention_of(128)) == Path::kLibrary);
  CHECK(attention({proof(kCausal64)}, attention_of(64, true)) == Path::kLibrary);
  CHECK(attention({proof(kPacked64)}, attention_of(64, true)) == Path::kFused);
  CHECK(attention({proof(kPacked64)}, attention_of(64)) == Path::kLibrary);
  CHECK(attention({proof(kCausal64, "fp32")}, attention_of(64)) == Path::kLibrary);
  CHECK(attention({proof(kCausal64, "bf16", "NVIDIA A100-SXM4-80GB")}, attention_of(64)) == Path::kLibrary);
  CHECK(attention({proof(kCausal64)}, attention_of(64), "") == Path::kLibrary);  // no device
  CHECK(with_proofs({proof(R"("kernel": "rms_norm")")}, {}).rms_norm == Path::kFused);
  CHECK(with_proofs({proof(R"("kernel": "rms_norm")")}, {}, "NVIDIA H200", at::kFloat).rms_norm == Path::kReference);
  CHECK(with_proofs({proof(R"("kernel": "rms_norm")", "fp32")}, {}, "NVIDIA H200", at::kFloat).rms_norm == Path::kFused);
}

TEST_CASE("blocks with a window have their own path; windows over packed documents need both proofs") {
  const Paths windows = with_proofs({proof(kWindow64)}, attention_of(64, false, true));
  CHECK(windows.attention == Path::kLibrary);
  CHECK(windows.attention_of(0) == Path::kLibrary);
  CHECK(windows.attention_of(512) == Path::kFused);
  CHECK_THAT(describe(windows), Catch::Contains("attention library (fused in windows)"));
  const Paths full = with_proofs({proof(kCausal64)}, attention_of(64, false, true));
  CHECK((full.attention_of(0) == Path::kFused && full.attention_of(512) == Path::kLibrary));
  const Paths both = with_proofs({proof(kCausal64), proof(kWindow64)}, attention_of(64, false, true));
  CHECK((both.attention_of(0) == Path::kFused && both.attention_of(512) == Path::kFused && !both.attention_in_windows));
  const Paths packed = with_proofs({proof(kCausal64), proof(kWindow64)}, attention_of(64, true, true));
  CHECK((packed.attention_of(0) == Path::kLibrary && packed.attention_of(512) == Path::kLibrary));
  CHECK(with_proofs({proof(kPacked64), proof(kWindow64)}, attention_of(64, true, true)).attention_of(512) == Path::kFused);
}

TEST_CASE("depth attention alone and joint with the sequence are proven apart") {
  const auto depth = [](const std::vector<std::string>& entries, std::int64_t head_dim, bool joint, bool packed = false) {
    ModelShapes shapes = attention_of(head_dim, packed);
    shapes.depth = HeadShape{4, 4, head_dim};
    shapes.joint = joint;
    return with_proofs(entries, shapes).depth_attention;
  };
  const std::string alone = proof(R"("kernel": "depth_attention", "head_dim": 64)"),
                    joint = proof(R"("kernel": "depth_attention", "mask": "joint", "head_dim": 64)");
  CHECK(depth({alone}, 64, false) == Path::kFused);
  CHECK(depth({alone}, 64, true) == Path::kReference);
  CHECK(depth({alone}, 128, false) == Path::kReference);
  CHECK(depth({joint}, 64, true) == Path::kFused);
  CHECK(depth({joint}, 64, false) == Path::kReference);
  CHECK(depth({joint}, 64, true, true) == Path::kReference);
  CHECK(depth({joint, proof(kPacked64)}, 64, true, true) == Path::kFused);
}

TEST_CASE("a proof that nobody can look up, or that says too little, is refused") {
  CHECK(parse_proofs(R"({"proofs": []})").empty());
  CHECK_NOTHROW(proofs());  // the repository's own
  for (const std::string& bad :
       {std::string(R"({"kernel": "adamw", "device": "X", "date": "", "commit": ""})"), proof(R"("kernel": "adamw")", "int8"),
        proof(R"("kernel": "adamw")", "bf16", ""), std::string(R"({"kernel": "adamw", "dtype": "bf16", "device": "X", "date": "1"})"),
        proof(R"("kernel": "adamw", "head_dim": "64")"), std::string("7")}) {
    INFO(bad);
    CHECK_THROWS_WITH(parse_proofs(R"({"proofs": [)" + bad + "]}"), Catch::StartsWith("kernels/proven.json: entry "));
  }
  CHECK_THROWS_AS(parse_proofs("{"), InputError);
}
