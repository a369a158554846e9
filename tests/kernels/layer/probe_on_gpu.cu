// probe_on_gpu NAME: what Hopper's own instructions do, which none of the kernels uses yet. Each probe prints what it saw; there is no
// right answer here. A probe that reads the manual wrongly may fault or never end, so each is a process of its own with a short time. Exit
// code 4 without a Hopper GPU.
//
//   mbarrier      phases and parities, by test_wait after each step
//   bulk_copy     cp.async.bulk of 1 KiB, its mbarrier's answer, and the bytes that have landed
//   tensor_copy   where a tensor map's swizzle modes put each element of a box
//   wgmma_*       which element of shared memory B[k][n] is, for descriptors of each swizzle mode; both: A by a descriptor, too
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MERISTEM_HOPPER 1
#else
#define MERISTEM_HOPPER 0
#endif

constexpr int kOut = 4096;  // words a probe may write
constexpr int kShared = 1024 + 32768;

__device__ std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

// Dynamic shared memory, aligned as the widest swizzle wants it.
[[maybe_unused]] __device__ unsigned char* aligned_shared() {
  extern __shared__ unsigned char raw[];
  return raw + (1024 - shared_address(raw) % 1024) % 1024;
}

#if MERISTEM_HOPPER
__device__ void barrier_init(std::uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}
__device__ void barrier_expect(std::uint32_t barrier, int bytes) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ std::uint32_t barrier_test(std::uint32_t barrier, int parity) {
  std::uint32_t done;
  asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done;
}
// Turns until the phase of that parity is over; at most a million.
__device__ std::uint32_t barrier_wait(std::uint32_t barrier, int parity) {
  std::uint32_t turns = 0;
  while (turns < 1000000 && barrier_test(barrier, parity) == 0) ++turns;
  return turns;
}
#endif

__global__ void mbarrier_kernel(std::uint32_t* out) {
#if MERISTEM_HOPPER
  __shared__ std::uint64_t barrier;
  const std::uint32_t at = shared_address(&barrier);
  const auto record = [&] {
    *out++ = barrier_test(at, 0);
    *out++ = barrier_test(at, 1);
  };
  barrier_init(at, 2);
  record();  // fresh
  barrier_arrive(at);
  record();  // one of two
  barrier_arrive(at);
  record();  // the first phase is over
  barrier_arrive(at);
  barrier_arrive(at);
  record();  // and the second
  barrier_arrive(at);
  barrier_expect(at, 64);
  record();  // all have arrived, 64 bytes are still to come
#endif
}

__global__ void bulk_copy_kernel(const std::uint32_t* in, std::uint32_t* out) {
#if MERISTEM_HOPPER
  __shared__ std::uint64_t barrier;
  auto* landed = reinterpret_cast<std::uint32_t*>(aligned_shared());
  const std::uint32_t at = shared_address(&barrier);
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) landed[i] = 0xFFFFFFFFu;
  if (threadIdx.x == 0) barrier_init(at, 1);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x == 0) {
    barrier_expect(at, 1024);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];" ::"r"(shared_address(landed)),
                 "l"(in), "r"(at)
                 : "memory");
  }
  const std::uint32_t turns = barrier_wait(at, 0);
  if (threadIdx.x == 0) out[0] = turns < 1000000 ? 1 : 0;
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) out[1 + i] = landed[i];
#endif
}

__global__ void tensor_copy_kernel(const __grid_constant__ CUtensorMap map, int bytes, std::uint32_t* out) {
#if MERISTEM_HOPPER
  __shared__ std::uint64_t barrier;
  auto* landed = reinterpret_cast<std::uint32_t*>(aligned_shared());
  const std::uint32_t at = shared_address(&barrier);
  if (threadIdx.x == 0) {
    barrier_init(at, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    barrier_expect(at, bytes);
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                     shared_address(landed)),
                 "l"(&map), "r"(at), "r"(0), "r"(1)
                 : "memory");
  }
  __syncwarp();
  const std::uint32_t turns = barrier_wait(at, 0);
  if (threadIdx.x == 0) out[0] = turns < 1000000 ? 1 : 0;
  for (int i = static_cast<int>(threadIdx.x); i < bytes / 4; i += 32) out[1 + i] = landed[i];
#endif
}

[[maybe_unused]] constexpr int kElements = 8192;  // of B in shared memory

#if MERISTEM_HOPPER
__device__ std::uint16_t bf16_of(int value) { return static_cast<std::uint16_t>(__float_as_uint(static_cast<float>(value)) >> 16); }

__device__ std::uint64_t descriptor(std::uint32_t address, int leading, int stride, int mode) {
  const auto units = [](std::uint64_t bytes) { return (bytes & 0x3FFFF) >> 4; };
  return units(address) | units(static_cast<std::uint64_t>(leading)) << 16 | units(static_cast<std::uint64_t>(stride)) << 32 |
         static_cast<std::uint64_t>(mode) << 62;
}

template <int transposed>
__device__ void multiply(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 0, 1, 1, %69;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),
        "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]),
        "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(transposed)
      : "memory");
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
__device__ void multiply_both(float (&d)[64], std::uint64_t a, std::uint64_t b) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 0, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),
        "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]),
        "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b)
      : "memory");
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
#endif

// A picks row m % 16 of B, whose elements are numbers of two digits: their own index in shared memory, one digit a run. So D says which
// element B[k][n] is. out[k * 128 + n], of the digit's weight.
template <int transposed, bool both>
__global__ void wgmma_kernel(int leading, int stride, int mode, int digit, std::uint32_t* out) {
#if MERISTEM_HOPPER
  auto* b = reinterpret_cast<std::uint16_t*>(aligned_shared());
  std::uint16_t* a = b + kElements;  // 64 x 16 without a swizzle: core matrices of 8 rows of 16 bytes, the two of a row side by side
  const int thread = static_cast<int>(threadIdx.x), group = thread % 32 / 4, pair = 2 * (thread % 4);
  for (int i = thread; i < kElements; i += 128) b[i] = bf16_of(digit == 0 ? i % 128 : i / 128);
  for (int i = thread; i < 1024; i += 128) {
    const int matrix = i / 64, row = 8 * (matrix / 2) + i % 64 / 8, column = 8 * (matrix % 2) + i % 8;
    a[i] = bf16_of(row % 16 == column ? 1 : 0);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[64] = {};
  const auto picks = [&](int row, int column) {
    return static_cast<std::uint32_t>(bf16_of(row == column)) | static_cast<std::uint32_t>(bf16_of(row == column + 1)) << 16;
  };
  const std::uint64_t of_b = descriptor(shared_address(b), leading, stride, mode);
  if constexpr (both) {
    multiply_both(d, descriptor(shared_address(a), 128, 256, 0), of_b);
  } else {
    const std::uint32_t fragment[4] = {picks(group, pair), picks(group + 8, pair), picks(group, pair + 8), picks(group + 8, pair + 8)};
    multiply<transposed>(d, fragment, of_b);
  }
  if (thread >= 32) return;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int row = group + 8 * (i / 2 % 2), column = 8 * (i / 4) + pair + i % 2;
    out[row * 128 + column] += static_cast<std::uint32_t>(d[i]) * (digit == 0 ? 1 : 128);
  }
#endif
}

// Words that a probe left; ends the program after an error.
std::vector<std::uint32_t> words_of(const std::uint32_t* out, int count) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(count));
  if (const cudaError_t error = cudaMemcpy(words.data(), out, words.size() * 4, cudaMemcpyDeviceToHost); error != cudaSuccess) {
    std::printf("%s\n", cudaGetErrorString(error));
    std::exit(1);
  }
  return words;
}

void print(const char* name, const std::vector<std::uint32_t>& words) {
  std::printf("%s:", name);
  for (const std::uint32_t word : words) std::printf(" %x", word);
  std::puts("");
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                            const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// A box of 16 rows from row 1 of 64 x 64 elements, each its own index, in every swizzle mode at its full width.
int probe_tensor_copy(std::uint32_t* in, std::uint32_t* out) {
  std::vector<std::uint16_t> elements(64 * 64);
  for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<std::uint16_t>(i);
  cudaMemcpy(in, elements.data(), 2 * elements.size(), cudaMemcpyHostToDevice);
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer{};
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer) != cudaSuccess ||
      found == nullptr) {
    std::puts("the driver has no cuTensorMapEncodeTiled");
    return 1;
  }
  struct Mode {
    const char* name;
    CUtensorMapSwizzle swizzle;
    cuuint32_t columns;
  };
  for (const Mode& mode : {Mode{"none", CU_TENSOR_MAP_SWIZZLE_NONE, 16}, Mode{"32", CU_TENSOR_MAP_SWIZZLE_32B, 16},
                           Mode{"64", CU_TENSOR_MAP_SWIZZLE_64B, 32}, Mode{"128", CU_TENSOR_MAP_SWIZZLE_128B, 64}}) {
    CUtensorMap map{};
    const cuuint64_t size[2] = {64, 64}, stride[1] = {128};
    const cuuint32_t box[2] = {mode.columns, 16}, step[2] = {1, 1};
    const CUresult made = reinterpret_cast<Encode>(found)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, in, size, stride, box, step,
                                                          CU_TENSOR_MAP_INTERLEAVE_NONE, mode.swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (made != CUDA_SUCCESS) {
      std::printf("%s: no map: error %d\n", mode.name, static_cast<int>(made));
      continue;
    }
    const int bytes = static_cast<int>(mode.columns) * 32;
    tensor_copy_kernel<<<1, 32, kShared>>>(map, bytes, out);
    print(mode.name, words_of(out, 1 + bytes / 4));
  }
  return 0;
}

template <int transposed, bool both>
void probe_wgmma(int mode, std::uint32_t* out) {
  for (const auto [leading, stride] : {std::pair{128, 256}, std::pair{256, 1024}, std::pair{1024, 2048}, std::pair{2048, 512}}) {
    cudaMemset(out, 0, kOut * 4);
    for (const int digit : {0, 1}) wgmma_kernel<transposed, both><<<1, 128, kShared>>>(leading, stride, mode, digit, out);
    const auto words = words_of(out, 16 * 128);
    for (int k = 0; k < 16; ++k) {
      std::printf("%s leading %d stride %d k %d:", transposed ? "transposed" : "plain", leading, stride, k);
      for (const int n : {0, 1, 2, 3, 7, 8, 9, 15, 16, 31, 32, 63, 64, 65, 127})
        std::printf(" %u", words[static_cast<std::size_t>(k * 128 + n)]);
      std::puts("");
    }
  }
}

int probe(const char* name, std::uint32_t* in, std::uint32_t* out) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("mbarrier")) {
    mbarrier_kernel<<<1, 1>>>(out);
    print(name, words_of(out, 10));
  } else if (is("bulk_copy")) {
    bulk_copy_kernel<<<1, 32, kShared>>>(in, out);
    print(name, words_of(out, 257));
  } else if (is("tensor_copy")) {
    return probe_tensor_copy(in, out);
  } else if (is("wgmma_both")) {
    probe_wgmma<0, true>(0, out);
  } else if (std::strncmp(name, "wgmma_", 6) == 0) {
    const int mode = is("wgmma_128") ? 1 : is("wgmma_64") ? 2 : is("wgmma_32") ? 3 : 0;
    probe_wgmma<0, false>(mode, out);
    probe_wgmma<1, false>(mode, out);
  } else {
    std::printf("probe_on_gpu: error: found '%s'; allowed: mbarrier, bulk_copy, tensor_copy, wgmma_none, _32, _64, _128, _both\n", name);
    return 2;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::strcmp(argv[1], "--help") == 0) {
    std::puts("probe_on_gpu NAME: mbarrier, bulk_copy, tensor_copy, wgmma_none, wgmma_32, wgmma_64, wgmma_128, wgmma_both");
    return argc == 2 ? 0 : 2;
  }
  int major = 0;
  std::uint32_t *in = nullptr, *out = nullptr;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess || major != 9 ||
      cudaMalloc(&in, kOut * 4) != cudaSuccess || cudaMalloc(&out, kOut * 4) != cudaSuccess) {
    std::puts("skipped: no Hopper GPU");
    return 4;
  }
  std::vector<std::uint32_t> words(kOut);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(i);
  cudaMemcpy(in, words.data(), words.size() * 4, cudaMemcpyHostToDevice);
  cudaMemset(out, 0, kOut * 4);
  for (const auto kernel : {wgmma_kernel<0, false>, wgmma_kernel<1, false>, wgmma_kernel<0, true>})
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  return probe(argv[1], in, out);
}
