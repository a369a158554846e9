// conformance_on_gpu GOLDEN: runs every primitive's kernel on the GPU, prints its words, and says where they are not those of golden.txt,
// which the CPU layer is held to as well. Exit code 1 where they differ, 4 without a GPU.
#include <cstdio>
#include <vector>

#include "kernels/layer/conformance.h"

using namespace meristem::kernels;

namespace {

int capability() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return 10 * major + minor;
}

// The words that the GPU gives; none after an error.
std::vector<std::uint32_t> words_of(const conformance::Primitive& primitive, const conformance::Words& words) {
  std::vector<std::uint32_t> out(conformance::kWordsOut);
  cudaMemset(words.out, 0, out.size() * 4);
  device::launch(primitive.name, primitive.kernel, primitive.blocks, primitive.threads, conformance::kSharedBytes, nullptr, words);
  if (const cudaError_t error = cudaMemcpy(out.data(), words.out, out.size() * 4, cudaMemcpyDeviceToHost); error != cudaSuccess) {
    std::printf("%s: %s\n", primitive.name, cudaGetErrorString(error));
    return {};
  }
  std::printf("%s", primitive.name);
  for (const std::uint32_t word : out) std::printf(" %08x", word);
  std::puts("");
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::string(argv[1]) == "--help") {
    std::puts("conformance_on_gpu GOLDEN: every primitive of the device layer against tests/kernels/layer/golden.txt");
    return argc == 2 ? 0 : 2;
  }
  const auto golden = conformance::read_golden(argv[1]);
  std::vector<std::uint32_t> host(conformance::kWordsIn);
  for (int i = 0; i < conformance::kWordsIn; ++i) host[static_cast<std::size_t>(i)] = conformance::input_word(i);
  conformance::Words words{};
  std::uint32_t* in = nullptr;
  if (cudaMalloc(&in, host.size() * 4) != cudaSuccess || cudaMalloc(&words.out, conformance::kWordsOut * 4) != cudaSuccess) {
    std::printf("skipped: no GPU: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 4;
  }
  cudaMemcpy(in, host.data(), host.size() * 4, cudaMemcpyHostToDevice);
  words.in = in;
  std::string wrong;
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    if (capability() < primitive.capability) continue;
    const auto found = words_of(primitive, words);
    const auto known = golden.find(primitive.name);
    const int count = known == golden.end() || found.empty() ? -1 : conformance::different(found, known->second, primitive.ulps);
    if (count != 0)
      wrong +=
          " " + std::string(primitive.name) + (count < 0 ? " (no answer, or not in the file)" : " (" + std::to_string(count) + " words)");
  }
  std::printf("%s\n", wrong.empty() ? "all as in golden.txt" : ("not as in golden.txt:" + wrong).c_str());
  return wrong.empty() ? 0 : 1;
}
