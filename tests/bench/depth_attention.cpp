// Depth attention: memory bound, so its measure is the copy.
#include <fmt/format.h>

#include "bench/harness.h"
#include "ops/depth_attention.h"

namespace meristem::bench {

void bench_depth_attention(Bench& bench) {
  const bool tiny = bench.settings().tiny;
  const ops::Path path = our_path("depth_attention", bench);
  const std::int64_t tokens = tiny ? 32 : 16384, width = tiny ? 64 : 1024;
  const ops::HeadShape shape{width / 64, width / 64, 64};
  for (const std::int64_t entries : tiny ? std::vector<std::int64_t>{3} : std::vector<std::int64_t>{4, 8, 16}) {
    const auto random = [&] { return torch::randn({tokens, width}, bench.bf16()).requires_grad_(); };
    const at::Tensor q = random(), d_out = torch::randn({tokens, width}, bench.bf16());
    std::vector<at::Tensor> keys, values, inputs{q};
    for (std::int64_t i = 0; i < entries; ++i) {
      keys.push_back(random());
      values.push_back(random());
      inputs.insert(inputs.end(), {keys.back(), values.back()});
    }
    const at::Tensor out = ops::depth_attention(q, keys, values, shape, path);
    const auto name = fmt::format("{} entries, {} x {}", entries, tokens, width);
    const double row = 2.0 * static_cast<double>(tokens * width);  // bytes of one [N, width]
    const auto n = static_cast<double>(entries);
    // Reads q, keys, values; writes the result. Backward reads those and the result's gradient, and writes as many gradients.
    bench.compare_with_copy("depth_attention_forward", name, {our_name(path), [&] { ops::depth_attention(q, keys, values, shape, path); }},
                            (2 * n + 2) * row);
    bench.compare_with_copy("depth_attention_backward", name, {our_name(path), [&] { run_backward(out, inputs, d_out); }},
                            (4 * n + 3) * row);
  }
}

}  // namespace meristem::bench
