// The same kernels on the CPU layer. Where a GPU has left golden.txt, every word must be its word.
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "kernels/conformance/primitives.h"
#include "support/catch.h"

using namespace meristem::kernels;

namespace {

std::vector<std::uint32_t> words_of(const conformance::Primitive& primitive, std::uint32_t seed) {
  device::host::Array<std::uint32_t> in(conformance::kWordsIn), out(conformance::kWordsOut);
  for (int i = 0; i < conformance::kWordsIn; ++i) in[static_cast<std::size_t>(i)] = conformance::input_word(i);
  for (std::uint32_t& word : out) word = 0;
  device::host::Grid::current().settings = {};
  device::host::Grid::current().settings.seed = seed;
  device::launch(primitive.name, primitive.kernel, 1, 32, conformance::kSharedBytes, nullptr, conformance::Words{in.data(), out.data()});
  return {out.begin(), out.end()};
}

std::map<std::string, std::vector<std::uint32_t>> golden() {
  std::map<std::string, std::vector<std::uint32_t>> found;
  std::ifstream file(MERISTEM_SOURCE_DIR "/tests/kernels/conformance/golden.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    for (std::string word; fields >> word;) found[name].push_back(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)));
  }
  return found;
}

}  // namespace

TEST_CASE("every primitive's kernel runs, writes something, and does not depend on the schedule") {
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    INFO(primitive.name);
    const auto words = words_of(primitive, 0);
    CHECK(words != std::vector<std::uint32_t>(conformance::kWordsOut));
    CHECK(words == words_of(primitive, 3));
  }
}

TEST_CASE("the CPU layer gives the words that a GPU gave") {
  const auto known = golden();
  if (known.empty()) WARN("SKIPPED: no golden.txt; no GPU has run conformance_on_gpu yet");
  for (const conformance::Primitive& primitive : conformance::kPrimitives) {
    const auto at = known.find(primitive.name);
    if (known.empty()) continue;
    INFO(primitive.name);
    REQUIRE(at != known.end());
    CHECK(words_of(primitive, 0) == at->second);
  }
}
