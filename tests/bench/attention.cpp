// Attention: causal against PyTorch's flash backend; packed documents against what PyTorch offers for the same mask.
#include <fmt/format.h>

#include "bench/harness.h"
#include "ops/attention.h"
#include "ops/depth_attention.h"

namespace meristem::bench {
namespace {

struct Shape {
  std::int64_t sequences, length, heads, head_dim;
  std::int64_t tokens() const { return sequences * length; }
};

// The same values as one packed projection and as q, k, v [S, T, H, D].
struct Inputs {
  at::Tensor qkv, d_out, q, k, v, d_out_heads;

  Inputs(const Shape& shape, const at::TensorOptions& options)
      : qkv(torch::randn({shape.tokens(), 3 * shape.heads * shape.head_dim}, options).requires_grad_()),
        d_out(torch::randn({shape.tokens(), shape.heads * shape.head_dim}, options)) {
    const auto parts = qkv.detach().view({shape.sequences, shape.length, 3, shape.heads, shape.head_dim}).unbind(2);
    q = parts[0].contiguous().requires_grad_();
    k = parts[1].contiguous().requires_grad_();
    v = parts[2].contiguous().requires_grad_();
    d_out_heads = d_out.view({shape.sequences, shape.length, shape.heads, shape.head_dim});
  }
};

using Attend = std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;  // [S, T, H, D], so too the result

at::Tensor sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& mask, bool causal) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, 0, causal).transpose(1, 2);
}

at::Tensor flash(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (q.is_cpu()) return sdpa(q, k, v, {}, true);
  return std::get<0>(at::_scaled_dot_product_flash_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0, true, false))
      .transpose(1, 2);
}

// Flash's own documents, which no public operator of PyTorch offers.
at::Tensor flash_documents(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& offsets, std::int64_t longest) {
  return std::get<0>(at::_flash_attention_forward(q[0], k[0], v[0], offsets, offsets, longest, longest, 0, true, false)).unsqueeze(0);
}

// Forward and backward of ours and of each peer.
void both_passes(Bench& bench, const std::string& subject, const std::string& name, const Inputs& in, const std::string& ours,
                 const std::function<at::Tensor()>& attend, const std::vector<std::pair<std::string, Attend>>& peers) {
  const auto without_grad = [](const auto& run) {
    const torch::NoGradGuard no_grad;
    run();
  };
  std::vector<Program> forward{{ours, [&] { without_grad(attend); }}}, backward;
  for (const auto& [peer, run] : peers) forward.push_back({peer, [&, &run = run] { without_grad([&] { run(in.q, in.k, in.v); }); }});
  bench.compare(subject + "_forward", name, forward);
  std::vector<at::Tensor> outputs;
  try {
    outputs.push_back(attend());
    for (const auto& [peer, run] : peers) outputs.push_back(run(in.q, in.k, in.v));
  } catch (const std::exception&) {
    return;  // the forward line has said it
  }
  backward.push_back({ours, [&] { run_backward(outputs[0], {in.qkv}, in.d_out); }});
  for (std::size_t i = 0; i < peers.size(); ++i) {
    backward.push_back({peers[i].first, [&, i] { run_backward(outputs[i + 1], {in.q, in.k, in.v}, in.d_out_heads); }});
  }
  bench.compare(subject + "_backward", name, backward);
}

at::Tensor our_attention(const Inputs& in, const Shape& shape, const ops::Documents& documents, ops::Path path) {
  return ops::causal_attention(in.qkv, {shape.heads, shape.heads, shape.head_dim}, documents, path);
}

}  // namespace

void bench_attention(Bench& bench) {
  const std::int64_t tokens = bench.settings().tiny ? 64 : 16384;
  const ops::Path path = our_path("attention", bench);
  for (const std::int64_t head_dim : {64, 128}) {
    for (const std::int64_t length : {tokens / 8, tokens / 4, tokens / 2, tokens}) {
      const Shape shape{tokens / length, length, (bench.settings().tiny ? 128 : 2048) / head_dim, head_dim};
      const Inputs in(shape, bench.bf16());
      const auto documents = ops::Documents::uniform(shape.sequences, length).on(bench.settings().device);
      const auto name = fmt::format("D{}, {} x {}, causal", head_dim, shape.sequences, length);
      std::vector<std::pair<std::string, Attend>> peers{{"flash", flash}};
      peers.emplace_back("default", [](const auto& q, const auto& k, const auto& v) { return sdpa(q, k, v, {}, true); });
      both_passes(bench, "attention", name, in, our_name(path), [&] { return our_attention(in, shape, documents, path); }, peers);
    }
  }
}

void bench_attention_packed(Bench& bench) {
  const std::int64_t tokens = bench.settings().tiny ? 64 : 16384;
  const ops::Path path = our_path("attention", bench);
  // Documents of 1/64 to 1/8 of the batch.
  ops::Documents documents;
  std::int64_t longest = 0, left = tokens;
  for (std::int64_t i = 0; left > 0; ++i) {
    const std::int64_t length = std::min(left, tokens / 64 * (1 + 5 * i % 8));
    documents.lengths.push_back(length);
    longest = std::max(longest, length);
    left -= length;
  }
  documents = documents.on(bench.settings().device);
  for (const std::int64_t head_dim : {64, 128}) {
    const Shape shape{1, tokens, (bench.settings().tiny ? 128 : 2048) / head_dim, head_dim};
    const Inputs in(shape, bench.bf16());
    std::vector<std::pair<std::string, Attend>> peers;
    peers.emplace_back("SDPA a document", [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      const auto qs = q.split_with_sizes(documents.lengths, 1), ks = k.split_with_sizes(documents.lengths, 1),
                 vs = v.split_with_sizes(documents.lengths, 1);
      std::vector<at::Tensor> out;
      for (std::size_t i = 0; i < qs.size(); ++i) out.push_back(sdpa(qs[i], ks[i], vs[i], {}, true));
      return at::cat(out, 1);
    });
    if (in.q.is_cuda()) {
      peers.emplace_back("flash's own documents", [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return flash_documents(q, k, v, documents.offsets, longest);
      });
    }
    both_passes(
        bench, "attention_packed", fmt::format("D{}, {} documents in {}", head_dim, documents.lengths.size(), tokens), in, our_name(path),
        [&] { return our_attention(in, shape, documents, path); }, peers);
  }
}

// Depth attention is memory bound, so its measure is the copy.
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
