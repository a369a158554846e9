// Runs every primitive's kernel on the GPU and prints its words, a line each: golden.txt, which the CPU layer is then held to.
#include <cstdio>
#include <vector>

#include "kernels/layer/conformance.h"

using namespace meristem::kernels;

int main() {
  std::vector<std::uint32_t> host(conformance::kWordsIn), out(conformance::kWordsOut);
  for (int i = 0; i < conformance::kWordsIn; ++i) host[static_cast<std::size_t>(i)] = conformance::input_word(i);
  conformance::Words words{};
  std::uint32_t* in = nullptr;
  if (cudaMalloc(&in, host.size() * 4) != cudaSuccess || cudaMalloc(&words.out, out.size() * 4) != cudaSuccess) {
    std::fprintf(stderr, "no GPU: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 4;  // skipped
  }
  cudaMemcpy(in, host.data(), host.size() * 4, cudaMemcpyHostToDevice);
  words.in = in;
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    cudaMemset(words.out, 0, out.size() * 4);
    device::launch(primitive.name, primitive.kernel, 1, 32, conformance::kSharedBytes, nullptr, words);
    if (const cudaError_t error = cudaMemcpy(out.data(), words.out, out.size() * 4, cudaMemcpyDeviceToHost); error != cudaSuccess) {
      std::fprintf(stderr, "%s: %s\n", primitive.name, cudaGetErrorString(error));
      return 1;
    }
    std::printf("%s", primitive.name);
    for (const std::uint32_t word : out) std::printf(" %08x", word);
    std::puts("");
  }
  return 0;
}
