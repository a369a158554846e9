// Attention, each kind of mask apart: causal against PyTorch's flash backend; windows, packed documents and joint with depth against the
// best that PyTorch offers for the same mask.
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

at::Tensor sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0, /*is_causal=*/true)
      .transpose(1, 2);
}

at::Tensor flash(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (q.is_cpu()) return sdpa(q, k, v);
  return std::get<0>(at::_scaled_dot_product_flash_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0, true, false))
      .transpose(1, 2);
}

// One way to attend, and what its gradients are of.
struct Attend {
  std::string name;
  std::function<at::Tensor()> run;
  std::vector<at::Tensor> inputs;
  at::Tensor d_out;
};

// By an operator on q, k, v.
Attend of_heads(const std::string& name, const Inputs& in, at::Tensor (*attend)(const at::Tensor&, const at::Tensor&, const at::Tensor&)) {
  return {name, [&in, attend] { return attend(in.q, in.k, in.v); }, {in.q, in.k, in.v}, in.d_out_heads};
}

// By a path of ours on the projection. The library's is what `auto` has without our kernel.
Attend of_projection(const std::string& name, const Inputs& in, const ops::HeadShape& shape, const ops::Documents& documents,
                     ops::Path path) {
  return {name, [&in, shape, documents, path] { return ops::causal_attention(in.qkv, shape, documents, path); }, {in.qkv}, in.d_out};
}

// What is compared: what a mask is in kernels/proven.json, and the pairs of a query and a key that it leaves, of one head.
struct Compared {
  std::string subject, mask, name;
  Shape shape;
  double pairs, entry_bytes = 0;  // entries: of depth, read once

  nlohmann::json work(bool backward) const {
    const double columns = static_cast<double>(shape.heads * shape.head_dim), row = 2.0 * static_cast<double>(shape.tokens()) * columns;
    return {{"mask", mask},
            {"head_dim", shape.head_dim},
            {"bytes", (backward ? 8 : 4) * row + (backward ? 2 : 1) * entry_bytes},
            {"flops", (backward ? 10 : 4) * columns * pairs}};
  }
};

double causal_pairs(const std::vector<std::int64_t>& lengths, std::int64_t window = 0) {
  double pairs = 0;
  for (const std::int64_t length : lengths) {
    const auto n = static_cast<double>(length), w = window > 0 ? std::min(n, static_cast<double>(window)) : n;
    pairs += n * w - w * (w - 1) / 2;
  }
  return pairs;
}

// Forward and backward of each; the first is ours.
void both_passes(Bench& bench, const Compared& what, const std::vector<Attend>& all) {
  std::vector<Program> forward, backward;
  for (const Attend& one : all) {
    forward.push_back({one.name, [&one] {
                         const torch::NoGradGuard no_grad;
                         one.run();
                       }});
  }
  bench.compare(what.subject + "_forward", what.name, forward, what.work(false));
  std::vector<at::Tensor> outputs;
  try {
    for (const Attend& one : all) outputs.push_back(one.run());
  } catch (const std::exception&) {
    return;  // the forward line has said it
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    backward.push_back({all[i].name, [&, i] { run_backward(outputs[i], all[i].inputs, all[i].d_out); }});
  }
  bench.compare(what.subject + "_backward", what.name, backward, what.work(true));
}

std::int64_t tokens_of(const Bench& bench) { return bench.settings().tiny ? 64 : 16384; }
std::int64_t heads_of(const Bench& bench, std::int64_t head_dim) { return (bench.settings().tiny ? 128 : 2048) / head_dim; }

}  // namespace

void bench_attention(Bench& bench) {
  const std::int64_t tokens = tokens_of(bench);
  const ops::Path path = our_path("attention", bench);
  for (const std::int64_t head_dim : {64, 128}) {
    for (const std::int64_t length : {tokens / 8, tokens / 4, tokens / 2, tokens}) {
      const Shape shape{tokens / length, length, heads_of(bench, head_dim), head_dim};
      const Inputs in(shape, bench.bf16());
      const auto documents = ops::Documents::uniform(shape.sequences, length).on(bench.settings().device);
      const Compared what{"attention", "causal", fmt::format("D{}, {} x {}, causal", head_dim, shape.sequences, length), shape,
                          causal_pairs(documents.lengths)};
      both_passes(bench, what,
                  {of_projection(our_name(path), in, {shape.heads, shape.heads, head_dim}, documents, path), of_heads("flash", in, flash),
                   of_heads("default", in, sdpa)});
    }
  }
}

void bench_attention_window(Bench& bench) {
  const std::int64_t tokens = tokens_of(bench), window = bench.settings().tiny ? 8 : 1024;
  const ops::Path path = our_path("attention", bench);
  for (const std::int64_t head_dim : {64, 128}) {
    const Shape shape{1, tokens, heads_of(bench, head_dim), head_dim};
    const Inputs in(shape, bench.bf16());
    const auto documents = ops::Documents::uniform(1, tokens).on(bench.settings().device);
    const ops::HeadShape heads{shape.heads, shape.heads, head_dim, window};
    both_passes(
        bench,
        {"attention_window", "window", fmt::format("D{}, window of {} in {}", head_dim, window, tokens), shape,
         causal_pairs(documents.lengths, window)},
        {of_projection(our_name(path), in, heads, documents, path), of_projection("library", in, heads, documents, ops::Path::kLibrary)});
  }
}

void bench_attention_packed(Bench& bench) {
  const std::int64_t tokens = tokens_of(bench);
  const ops::Path path = our_path("attention", bench);
  // Documents of 1/64 to 1/8 of the batch.
  ops::Documents documents;
  std::int64_t left = tokens;
  for (std::int64_t i = 0; left > 0; ++i) {
    documents.lengths.push_back(std::min(left, tokens / 64 * (1 + 5 * i % 8)));
    left -= documents.lengths.back();
  }
  documents = documents.on(bench.settings().device);
  for (const std::int64_t head_dim : {64, 128}) {
    const Shape shape{1, tokens, heads_of(bench, head_dim), head_dim};
    const Inputs in(shape, bench.bf16());
    const Attend one_by_one{"SDPA a document",
                            [&] {
                              const auto qs = in.q.split_with_sizes(documents.lengths, 1), ks = in.k.split_with_sizes(documents.lengths, 1),
                                         vs = in.v.split_with_sizes(documents.lengths, 1);
                              std::vector<at::Tensor> out;
                              for (std::size_t i = 0; i < qs.size(); ++i) out.push_back(flash(qs[i], ks[i], vs[i]));
                              return at::cat(out, 1);
                            },
                            {in.q, in.k, in.v},
                            in.d_out_heads};
    const ops::HeadShape heads{shape.heads, shape.heads, head_dim};
    both_passes(bench,
                {"attention_packed", "packed", fmt::format("D{}, {} documents in {}", head_dim, documents.lengths.size(), tokens), shape,
                 causal_pairs(documents.lengths)},
                {of_projection(our_name(path), in, heads, documents, path),
                 of_projection("library", in, heads, documents, ops::Path::kLibrary), one_by_one});
  }
}

// Over the sequence and eight depth entries in one softmax. LibTorch has no such operator: the peer is the composition of its operators.
void bench_attention_joint(Bench& bench) {
  const std::int64_t tokens = bench.settings().tiny ? 64 : 2048, entries = bench.settings().tiny ? 2 : 8;
  const ops::Path path = our_path("depth_attention", bench);
  for (const std::int64_t head_dim : {64, 128}) {
    const Shape shape{1, tokens, heads_of(bench, head_dim), head_dim};
    const Inputs in(shape, bench.bf16());
    const auto documents = ops::Documents::uniform(1, tokens).on(bench.settings().device);
    const ops::HeadShape heads{shape.heads, shape.heads, head_dim};
    std::vector<at::Tensor> keys, values, inputs{in.qkv};
    for (std::int64_t i = 0; i < entries; ++i) {
      for (auto* list : {&keys, &values}) {
        list->push_back(torch::randn({tokens, shape.heads * head_dim}, bench.bf16()).requires_grad_());
        inputs.push_back(list->back());
      }
    }
    const auto joint = [&](const std::string& name, ops::Path by) {
      return Attend{name, [&, by] { return ops::joint_attention(in.qkv, keys, values, heads, documents, by); }, inputs, in.d_out};
    };
    const double row = 2.0 * static_cast<double>(tokens * shape.heads * head_dim);
    both_passes(bench,
                {"attention_joint", "joint", fmt::format("D{}, {} tokens and {} entries", head_dim, tokens, entries), shape,
                 causal_pairs(documents.lengths), 2 * static_cast<double>(entries) * row},
                {joint(our_name(path), path), joint("composition", ops::Path::kReference)});
  }
}

// Depth attention is memory bound, so its measure is the copy.
void bench_depth_attention(Bench& bench) {
  const bool tiny = bench.settings().tiny;
  const ops::Path path = our_path("depth_attention", bench);
  const std::int64_t tokens = tiny ? 32 : 16384, width = tiny ? 64 : 1024;
  using Case = std::pair<std::int64_t, std::int64_t>;  // head dim, entries
  for (const auto& [head_dim, entries] : tiny ? std::vector<Case>{{64, 3}} : std::vector<Case>{{64, 4}, {64, 8}, {64, 16}, {128, 8}}) {
    const ops::HeadShape shape{width / head_dim, width / head_dim, head_dim};
    const auto random = [&] { return torch::randn({tokens, width}, bench.bf16()).requires_grad_(); };
    const at::Tensor q = random(), d_out = torch::randn({tokens, width}, bench.bf16());
    std::vector<at::Tensor> keys, values, inputs{q};
    for (std::int64_t i = 0; i < entries; ++i) {
      keys.push_back(random());
      values.push_back(random());
      inputs.insert(inputs.end(), {keys.back(), values.back()});
    }
    const at::Tensor out = ops::depth_attention(q, keys, values, shape, path);
    const auto name = fmt::format("D{}, {} entries, {} x {}", head_dim, entries, tokens, width);
    const double row = 2.0 * static_cast<double>(tokens * width);  // bytes of one [N, width]
    const auto n = static_cast<double>(entries);
    // Reads q, keys, values; writes the result. Backward reads those and the result's gradient, and writes as many gradients.
    bench.compare_with_copy("depth_attention_forward", name, {our_name(path), [&] { ops::depth_attention(q, keys, values, shape, path); }},
                            (2 * n + 2) * row, {{"head_dim", head_dim}});
    bench.compare_with_copy("depth_attention_backward", name, {our_name(path), [&] { run_backward(out, inputs, d_out); }},
                            (4 * n + 3) * row, {{"head_dim", head_dim}});
    // Against the composition of LibTorch's operators, at one size: it is what `auto` has without our kernel.
    if (tiny || entries == 8) {
      const at::Tensor composed = ops::depth_attention(q, keys, values, shape, ops::Path::kReference);
      const auto forward = [&](ops::Path by) {
        return Program{by == path ? our_name(by) : "composition", [&, by] { ops::depth_attention(q, keys, values, shape, by); }};
      };
      bench.compare("depth_attention_forward", name, {forward(path), forward(ops::Path::kReference)}, {{"head_dim", head_dim}});
      bench.compare(
          "depth_attention_backward", name,
          {{our_name(path), [&] { run_backward(out, inputs, d_out); }}, {"composition", [&] { run_backward(composed, inputs, d_out); }}},
          {{"head_dim", head_dim}});
    }
  }
}

}  // namespace meristem::bench
