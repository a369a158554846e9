#include "ops/attention.h"

#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::HeadShape;
using ops::Path;
using ops::Segments;

namespace {

at::Tensor gradient(const at::Tensor& qkv, const HeadShape& shape, const Segments& segments, Path path, const at::Tensor& weight) {
  const at::Tensor leaf = qkv.detach().clone().requires_grad_();
  (ops::causal_attention(leaf, shape, segments, path) * weight).sum().backward();
  return leaf.grad();
}

}  // namespace

TEST_CASE("library attention agrees with the reference, uniform and packed, with and without shared key heads") {
  torch::manual_seed(1);
  const std::vector<Segments> layouts{Segments::uniform(2, 12), Segments{{5, 1, 12, 6}}, Segments::uniform(24, 1)};
  for (const HeadShape& shape : {HeadShape{4, 4, 16}, HeadShape{6, 2, 8}, HeadShape{3, 1, 16}}) {
    for (const Segments& segments : layouts) {
      const at::Tensor qkv = torch::randn({24, shape.columns()}, torch::kDouble), weight = torch::randn({24, shape.query_columns()}, torch::kDouble);
      CHECK(test::max_error(ops::causal_attention(qkv, shape, segments, Path::kLibrary), ops::causal_attention(qkv, shape, segments, Path::kReference)) < 1e-12);
      CHECK(test::max_error(gradient(qkv, shape, segments, Path::kLibrary, weight), gradient(qkv, shape, segments, Path::kReference, weight)) < 1e-12);
    }
  }
}

TEST_CASE("a token sees its own segment up to itself and nothing else, bit for bit") {
  torch::manual_seed(2);
  const HeadShape shape{4, 2, 8};
  const Segments segments{{7, 9}};
  const at::Tensor qkv = torch::randn({16, shape.columns()});
  for (const Path path : {Path::kReference, Path::kLibrary}) {
    const at::Tensor before = ops::causal_attention(qkv, shape, segments, path);
    at::Tensor changed = qkv.clone();
    changed[10] += 1;
    const at::Tensor after = ops::causal_attention(changed, shape, segments, path);
    CHECK(torch::equal(before.narrow(0, 0, 10), after.narrow(0, 0, 10)));
    for (int64_t t = 10; t < 16; ++t) CHECK_FALSE(torch::equal(before[t], after[t]));
  }
}

TEST_CASE("decoding with cached keys equals the whole sequence at once") {
  torch::manual_seed(3);
  const HeadShape shape{4, 2, 8};
  const at::Tensor qkv = torch::randn({10, shape.columns()}, torch::kDouble);
  const auto parts = qkv.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  const at::Tensor whole = ops::causal_attention(qkv, shape, Segments::uniform(1, 10), Path::kReference);
  for (const Path path : {Path::kReference, Path::kLibrary}) {
    for (const auto& [begin, count] : {std::pair<int, int>{0, 10}, {4, 3}, {9, 1}, {3, 2}}) {
      const at::Tensor out = ops::cached_attention(parts[0].narrow(0, begin, count), parts[1].narrow(0, 0, begin + count),
                                                   parts[2].narrow(0, 0, begin + count), shape, path);
      CHECK(test::max_error(out, whole.narrow(0, begin, count)) < 1e-12);
    }
  }
}
