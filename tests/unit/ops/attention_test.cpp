#include "ops/attention.h"

#include <algorithm>
#include <cstring>

#include <c10/core/CPUAllocator.h>

#include "ops/attention_passes.h"
#include "support/catch.h"
#include "support/tolerance.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using ops::Documents;
using ops::HeadShape;
using ops::Path;

namespace {

at::Tensor gradient(const at::Tensor& qkv, const HeadShape& shape, const Documents& documents, Path path, const at::Tensor& weight) {
  const at::Tensor leaf = qkv.detach().clone().requires_grad_();
  (ops::causal_attention(leaf, shape, documents, path) * weight).sum().backward();
  return leaf.grad();
}

// Counts what tensors hold while it stands in for the CPU's allocator.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
    largest_ = std::max(largest_, bytes);
    auto* block = new Block{std::malloc(std::max<std::size_t>(bytes, 1)), bytes, this};
    return {block->memory, block, &release, at::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  std::size_t peak() const { return peak_; }
  std::size_t largest() const { return largest_; }

 private:
  struct Block {
    void* memory;
    std::size_t bytes;
    CountingAllocator* owner;
  };
  std::size_t now_ = 0, peak_ = 0, largest_ = 0;

  static void release(void* pointer) {
    auto* block = static_cast<Block*>(pointer);
    block->owner->now_ -= block->bytes;
    std::free(block->memory);
    delete block;
  }
};

}  // namespace

TEST_CASE("library attention agrees with the reference, uniform and packed, with and without shared key heads") {
  torch::manual_seed(1);
  const std::vector<Documents> layouts{Documents::uniform(2, 12), Documents{{5, 1, 12, 6}}, Documents::uniform(24, 1)};
  for (const HeadShape& shape :
       {HeadShape{4, 4, 16}, HeadShape{6, 2, 8}, HeadShape{3, 1, 16}, HeadShape{6, 2, 8, 1}, HeadShape{4, 4, 16, 5}}) {
    for (const Documents& documents : layouts) {
      const at::Tensor qkv = torch::randn({24, shape.columns()}, torch::kDouble),
                       weight = torch::randn({24, shape.query_columns()}, torch::kDouble);
      CHECK(test::max_error(ops::causal_attention(qkv, shape, documents, Path::kLibrary),
                            ops::causal_attention(qkv, shape, documents, Path::kReference)) < 1e-12);
      CHECK(test::max_error(gradient(qkv, shape, documents, Path::kLibrary, weight),
                            gradient(qkv, shape, documents, Path::kReference, weight)) < 1e-12);
    }
  }
}

TEST_CASE("our own attention agrees with the reference at every level of this processor") {
  torch::manual_seed(5);
  struct Case {
    HeadShape shape;
    std::vector<std::int64_t> lengths;
  };
  const std::vector<Case> cases{
      {{4, 4, 64}, {200}},         {{4, 2, 32}, {1, 70, 128, 1}},
      {{3, 1, 48}, {77, 3}},       {{2, 1, 128}, {150}},
      {{6, 2, 8}, {40, 41}},       {{2, 2, 10}, {33}},
      {{4, 2, 32, 37}, {300}},     {{2, 2, 16, 2}, {100}},
      {{4, 1, 16, 128}, {150, 9}}, {{1, 1, 80, 64}, {70, 64, 65}},
      {{2, 1, 64, 130}, {400}},
  };
  for (const auto& [shape, lengths] : cases) {
    const Documents documents = Documents{lengths}.on(at::kCPU);
    std::int64_t tokens = 0;
    for (const std::int64_t length : lengths) tokens += length;
    INFO("heads of " << shape.head_dim << ", window " << shape.window << ", " << tokens << " tokens");
    test::check_fused(
        [&, shape = shape](const std::vector<at::Tensor>& in, Path path) {
          return ops::causal_attention(in[0].narrow(1, 2, shape.columns()), shape, documents, path);  // a part of wider rows
        },
        {torch::randn({tokens, shape.columns() + 6})});
  }
}

TEST_CASE("documents that share a beginning attend as whole texts, on every path") {
  torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  const std::vector<std::int64_t> lengths{150, 3, 70, 1, 20, 9, 5, 600};
  const std::vector<std::int64_t> beginnings{-1, 0, 0, -1, -1, 4, 2, 6};  // the last one behind three others
  for (const HeadShape& shape : {HeadShape{4, 2, 32}, HeadShape{2, 1, 16, 40}}) {
    const at::Tensor qkv = torch::randn({858, shape.columns()}, torch::kDouble);
    const auto documents = qkv.split_with_sizes(lengths);
    std::vector<at::Tensor> expected;
    for (std::size_t d = 0; d < lengths.size(); ++d) {
      at::Tensor text = documents[d];
      for (std::int64_t b = beginnings[d]; b >= 0; b = beginnings[static_cast<std::size_t>(b)])
        text = at::cat({documents[static_cast<std::size_t>(b)], text});
      const at::Tensor out = ops::causal_attention(text, shape, Documents{{text.size(0)}}, Path::kReference);
      expected.push_back(out.narrow(0, text.size(0) - lengths[d], lengths[d]));
    }
    const Documents given = Documents{lengths, {}, beginnings}.on(at::kCPU);
    for (const Path path : {Path::kReference, Path::kLibrary})
      CHECK(test::max_error(ops::causal_attention(qkv, shape, given, path), at::cat(expected)) < 1e-12);
    const at::Tensor rows = torch::tensor(std::vector<std::int64_t>{152, 222, 253, 857});
    test::for_each_cpu_level([&] {
      const at::Tensor all = ops::causal_attention(qkv.to(torch::kFloat), shape, given, Path::kFused),
                       some = ops::causal_attention(qkv.to(torch::kFloat), shape, given.read_at(rows), Path::kFused);
      CHECK(torch::equal(all.index_select(0, rows), some.index_select(0, rows)));
      CHECK(given.read_at(rows).unread == std::vector<char>{1, 0, 0, 1, 1, 1, 0, 0});
      CHECK(test::max_error(ops::causal_attention(qkv.to(torch::kFloat), shape, given, Path::kFused), at::cat(expected)) < 2e-6);
      CHECK(test::max_error(ops::causal_attention(qkv.to(torch::kBFloat16), shape, given, Path::kFused), at::cat(expected)) < 5e-2);
    });
  }
}

TEST_CASE("our own attention gives the same bits with any number of threads, and finite ones for large scores") {
  torch::manual_seed(6);
  const HeadShape shape{4, 2, 32};
  const Documents documents = Documents{{150, 7, 90}}.on(at::kCPU);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const at::Tensor qkv = (torch::randn({247, shape.columns()}) * 30).to(type), weight = torch::randn({247, 128}).to(type);
    const at::Tensor out = ops::causal_attention(qkv, shape, documents, Path::kFused),
                     grad = gradient(qkv, shape, documents, Path::kFused, weight);
    CHECK(out.isfinite().all().item<bool>());
    CHECK(grad.isfinite().all().item<bool>());
    const int threads = at::get_num_threads();
    for (const int count : {1, 3, threads}) {
      at::set_num_threads(count);
      CHECK(torch::equal(ops::causal_attention(qkv, shape, documents, Path::kFused), out));
      CHECK(torch::equal(gradient(qkv, shape, documents, Path::kFused, weight), grad));
    }
  }
}

TEST_CASE("a token sees its own document up to itself and nothing else, bit for bit") {
  torch::manual_seed(2);
  const HeadShape shape{4, 2, 8};
  const Documents documents = Documents{{7, 9}}.on(at::kCPU);
  const at::Tensor qkv = torch::randn({16, shape.columns()});
  for (const Path path : {Path::kReference, Path::kLibrary, Path::kFused}) {
    const at::Tensor before = ops::causal_attention(qkv, shape, documents, path);
    at::Tensor changed = qkv.clone();
    changed[10] += 1;
    const at::Tensor after = ops::causal_attention(changed, shape, documents, path);
    CHECK(torch::equal(before.narrow(0, 0, 10), after.narrow(0, 0, 10)));
    for (int64_t t = 10; t < 16; ++t) CHECK_FALSE(torch::equal(before[t], after[t]));
  }
}

TEST_CASE("with a window a token sees so many tokens and no more, in texts of many windows too") {
  torch::manual_seed(4);
  for (const std::int64_t window : {1, 5, 130}) {
    const HeadShape shape{4, 2, 8, window};
    const at::Tensor qkv = torch::randn({300, shape.columns()}, torch::kDouble), weight = torch::randn({300, 32}, torch::kDouble);
    for (const Documents& documents : {Documents::uniform(1, 300), Documents{{140, 3, 157}}}) {
      const at::Tensor library = ops::causal_attention(qkv, shape, documents, Path::kLibrary);
      CHECK(test::max_error(library, ops::causal_attention(qkv, shape, documents, Path::kReference)) < 1e-12);
      CHECK(test::max_error(gradient(qkv, shape, documents, Path::kLibrary, weight),
                            gradient(qkv, shape, documents, Path::kReference, weight)) < 1e-12);
    }
    at::Tensor changed = qkv.clone();
    changed[20] += 1;
    const at::Tensor before = ops::causal_attention(qkv, shape, Documents::uniform(1, 300), Path::kLibrary),
                     after = ops::causal_attention(changed, shape, Documents::uniform(1, 300), Path::kLibrary);
    for (const std::int64_t t : {std::int64_t{19}, 20 + window - 1, 20 + window}) {
      const bool sees = t >= 20 && t < 20 + window;
      CHECK(torch::equal(before[t], after[t]) != sees);
    }
  }
}

TEST_CASE("decoding with cached keys equals the whole sequence at once") {
  torch::manual_seed(3);
  const HeadShape shape = GENERATE(HeadShape{4, 2, 8}, HeadShape{4, 2, 8, 3}, HeadShape{3, 1, 80}, HeadShape{2, 2, 22, 40});
  const at::Tensor qkv = torch::randn({200, shape.columns()}, torch::kDouble);
  const at::Tensor whole = ops::causal_attention(qkv, shape, Documents::uniform(1, 200), Path::kReference);
  // Several texts, each the first so many tokens of this one, of which the last so many are new.
  const std::vector<std::pair<std::int64_t, std::int64_t>> all_new{{10, 10}, {200, 1}, {7, 3}, {1, 1}, {5, 2}, {130, 1}, {150, 70}},
      each_one{{10, 1}, {200, 1}, {1, 1}};
  for (const auto& texts : {all_new, each_one}) {
    const auto decode = [&](at::ScalarType type, Path path, const std::vector<std::pair<std::int64_t, std::int64_t>>& some) {
      const at::Tensor typed = qkv.to(type);
      const auto parts = typed.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
      std::vector<at::Tensor> queries;
      std::vector<ops::KeptRows> kept;
      Documents documents;
      for (const auto& [seen, count] : some) {
        queries.push_back(parts[0].narrow(0, seen - count, count));
        kept.push_back({parts[1].narrow(0, 0, seen).contiguous(), parts[2].narrow(0, 0, seen).contiguous()});
        documents.lengths.push_back(count);
      }
      return ops::cached_attention(at::cat(queries), kept, shape, documents.on(at::kCPU), path);
    };
    std::vector<at::Tensor> expected;
    for (const auto& [seen, count] : texts) expected.push_back(whole.narrow(0, seen - count, count));
    for (const Path path : {Path::kReference, Path::kLibrary})
      CHECK(test::max_error(decode(at::kDouble, path, texts), at::cat(expected)) < 1e-12);
    test::for_each_cpu_level([&] {
      const at::Tensor ours = decode(at::kFloat, Path::kFused, texts);
      CHECK(test::max_error(ours, at::cat(expected)) < 2e-6);
      CHECK(test::max_error(decode(at::kBFloat16, Path::kFused, texts), at::cat(expected)) < 5e-2);
      // A text's bits do not depend on the others.
      std::int64_t row = 0;
      for (const auto& text : texts) {
        CHECK(torch::equal(decode(at::kFloat, Path::kFused, {text}), ours.narrow(0, row, text.second)));
        row += text.second;
      }
    });
  }
}

TEST_CASE("packed short documents need memory in proportion to their tokens, never a mask of T x T") {
  constexpr std::int64_t kTokens = 4096;
  const HeadShape shape{2, 2, 16};
  Documents documents;
  for (std::int64_t left = kTokens, i = 0; left > 0; ++i) {
    documents.lengths.push_back(std::min<std::int64_t>(left, 5 + i % 29));
    left -= documents.lengths.back();
  }
  const auto qkv_bytes = static_cast<std::size_t>(kTokens * shape.columns() * 4);
  static CountingAllocator counted;  // outlives every tensor
  c10::Allocator* const before = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&counted, 100);
  {
    at::Tensor qkv = torch::randn({kTokens, shape.columns()}).requires_grad_();
    for (const Path path : {Path::kLibrary, Path::kFused}) ops::causal_attention(qkv, shape, documents.on(at::kCPU), path).sum().backward();
  }
  c10::SetCPUAllocator(before, 100);
  INFO("peak " << counted.peak() << " bytes, largest " << counted.largest() << ", qkv " << qkv_bytes << ", T x T "
               << kTokens * kTokens * 4);
  CHECK(counted.largest() <= qkv_bytes);
  CHECK(counted.peak() <= 8 * qkv_bytes);  // a fp32 T x T of one head would be 43
}

namespace {

int flash_calls = 0;

// In the place of LibTorch's flash attention, which is for GPUs: what its arguments say, document by document.
ops::FlashResult flash_stand_in(const ops::FlashCall& call) {
  ++flash_calls;
  REQUIRE((call.q_offsets.scalar_type() == at::kInt && call.k_offsets.scalar_type() == at::kInt));
  REQUIRE(call.q_offsets.size(0) == call.k_offsets.size(0));
  REQUIRE((call.q_NHK.stride(2) == 1 && call.k_MGK.stride(2) == 1 && call.v_MGK.stride(2) == 1));
  REQUIRE((call.q_offsets[-1].item<int>() == call.q_NHK.size(0) && call.k_offsets[-1].item<int>() == call.k_MGK.size(0)));
  std::vector<at::Tensor> out, log_sum_exp;
  for (std::int64_t d = 0; d + 1 < call.q_offsets.size(0); ++d) {
    const auto rows = [&](const at::Tensor& x, const at::Tensor& offsets) {
      const auto begin = offsets[d].item<std::int64_t>(), end = offsets[d + 1].item<std::int64_t>();
      return x.narrow(0, begin, end - begin).transpose(0, 1);
    };
    const at::Tensor q = rows(call.q_NHK, call.q_offsets), k = rows(call.k_MGK, call.k_offsets), v = rows(call.v_MGK, call.k_offsets);
    REQUIRE((q.size(1) <= call.longest_q && k.size(1) <= call.longest_k));
    if (q.size(1) == 0) continue;
    const std::int64_t group = q.size(0) / k.size(0), before = k.size(1) - q.size(1);
    at::Tensor seen = at::ones({q.size(1), k.size(1)}, at::kBool).tril(before);
    if (call.window) seen = seen.triu(before - *call.window);
    const at::Tensor scores = at::matmul(q, k.repeat_interleave(group, 0).transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2))),
                     hidden = scores.masked_fill(seen.logical_not(), -INFINITY);
    out.push_back(at::matmul(hidden.softmax(-1), v.repeat_interleave(group, 0)).transpose(0, 1));
    log_sum_exp.push_back(hidden.logsumexp(-1));
  }
  return {at::cat(out), at::cat(log_sum_exp, 1)};
}

}  // namespace

TEST_CASE("LibTorch's flash attention is asked once for all documents, and for what the reference computes") {
  torch::manual_seed(7);
  const Documents padded{{}, torch::tensor({0, 9, 10, 24, 24, 24}, torch::kInt), {}, 16};  // as a captured graph has them
  for (const HeadShape& shape : {HeadShape{4, 2, 8}, HeadShape{2, 2, 8, 5}, HeadShape{3, 1, 8, 24}}) {
    const at::Tensor qkv = torch::randn({24, shape.columns()}, torch::kDouble),
                     weight = torch::randn({24, shape.query_columns()}, torch::kDouble);
    for (const auto& [asked, means] :
         {std::pair{Documents{{9, 1, 14}}, Documents{{9, 1, 14}}}, std::pair{padded, Documents{{9, 1, 14}}},
          std::pair{Documents::uniform(3, 8), Documents::uniform(3, 8)}, std::pair{Documents{{24}}, Documents{{24}}}}) {
      flash_calls = 0;
      const at::Tensor leaf = qkv.clone().requires_grad_(), out = ops::flash_attention(flash_stand_in, leaf, shape, asked);
      (out * weight).sum().backward();
      CHECK(flash_calls == 1);
      CHECK(test::max_error(out, ops::causal_attention(qkv, shape, means, Path::kReference)) < 1e-12);
      CHECK(test::max_error(leaf.grad(), gradient(qkv, shape, means, Path::kReference, weight)) < 1e-12);
    }
  }
}

TEST_CASE("flash attention over shared beginnings, and over cached keys") {
  torch::manual_seed(8);
  const torch::NoGradGuard no_grad;
  for (const HeadShape& shape : {HeadShape{4, 2, 8}, HeadShape{2, 1, 8, 6}}) {
    const at::Tensor qkv = torch::randn({20, shape.columns()}, torch::kDouble);
    const Documents documents{{8, 3, 4, 5}, {}, {-1, 0, 1, -1}};
    flash_calls = 0;
    const at::Tensor out = ops::flash_attention(flash_stand_in, qkv, shape, documents);
    CHECK(flash_calls == 1);
    CHECK(test::max_error(out, ops::causal_attention(qkv, shape, documents, Path::kReference)) < 1e-12);
    const auto parts = qkv.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
    for (const std::int64_t queries : {1, 3}) {
      const at::Tensor q = parts[0].narrow(0, 20 - queries, queries);
      CHECK(test::max_error(ops::flash_cached_attention(flash_stand_in, q, parts[1], parts[2], shape),
                            ops::cached_attention(q, {{parts[1], parts[2]}}, shape, Documents{{queries}}, Path::kReference)) < 1e-12);
    }
  }
}

TEST_CASE("what LibTorch's flash attention takes") {
  CHECK(ops::flash_takes(at::kBFloat16, {2, 1, 64}));
  CHECK(ops::flash_takes(at::kHalf, {2, 1, 256, 100}));
  CHECK_FALSE(ops::flash_takes(at::kFloat, {2, 1, 64}));
  CHECK_FALSE(ops::flash_takes(at::kBFloat16, {2, 1, 60}));
  CHECK_FALSE(ops::flash_takes(at::kBFloat16, {2, 1, 264}));
  CHECK_FALSE(ops::flash_takes(at::kBFloat16, {2, 1, 64, 0, 30}));
}
