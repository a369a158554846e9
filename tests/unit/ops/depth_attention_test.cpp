#include "ops/depth_attention.h"

#include <cmath>

#include <torch/torch.h>

#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::HeadShape;
using ops::Path;

namespace {

constexpr HeadShape kShape{4, 2, 6};

std::vector<at::Tensor> random_entries(std::int64_t count, std::int64_t rows, bool gradient) {
  std::vector<at::Tensor> entries;
  for (std::int64_t i = 0; i < count; ++i)
    entries.push_back(torch::randn({rows, kShape.kv_columns()}, torch::kDouble).requires_grad_(gradient));
  return entries;
}

// By its definition, a number at a time.
at::Tensor by_hand(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values) {
  at::Tensor out = torch::zeros_like(q);
  const std::int64_t K = kShape.head_dim;
  for (std::int64_t n = 0; n < q.size(0); ++n) {
    for (std::int64_t h = 0; h < kShape.heads; ++h) {
      const std::int64_t g = h / (kShape.heads / kShape.kv_heads);
      const at::Tensor query = q[n].narrow(0, h * K, K);
      double sum = 0;
      at::Tensor mixed = torch::zeros({K}, torch::kDouble);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const double weight = std::exp(query.dot(keys[i][n].narrow(0, g * K, K)).item<double>() / std::sqrt(static_cast<double>(K)));
        sum += weight;
        mixed += weight * values[i][n].narrow(0, g * K, K);
      }
      out[n].narrow(0, h * K, K).copy_(mixed / sum);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("depth attention is the softmax over a token's own entries") {
  torch::manual_seed(1);
  const at::Tensor q = torch::randn({5, kShape.query_columns()}, torch::kDouble);
  for (const std::int64_t count : {1, 2, 5}) {
    const auto keys = random_entries(count, 5, false), values = random_entries(count, 5, false);
    const at::Tensor expected = by_hand(q, keys, values);
    for (const Path path : {Path::kReference, Path::kLibrary}) {
      CHECK(test::max_error(ops::depth_attention(q, keys, values, kShape, path), expected) < 1e-14 * 100);
    }
  }
}

TEST_CASE("joint attention whose depth keys are masked is plain attention, values and gradients") {
  torch::manual_seed(2);
  // One key head a query head: a depth key that points against its query scores -1e4 and is out of the softmax.
  const HeadShape shape{2, 2, 6};
  for (const ops::Documents& documents : {ops::Documents::uniform(2, 5), ops::Documents{{3, 7}}}) {
    for (const Path path : {Path::kReference, Path::kLibrary}) {
      const at::Tensor qkv = torch::randn({10, shape.columns()}, torch::kDouble).requires_grad_();
      const at::Tensor upstream = torch::randn({10, shape.query_columns()}, torch::kDouble);
      const at::Tensor q = qkv.detach().narrow(1, 0, shape.query_columns());
      const at::Tensor masked = q * (-1e6 / q.view({10, 2, 6}).square().sum(2, true).expand({10, 2, 6}).reshape({10, 12}));
      const std::vector<at::Tensor> keys{masked, masked},
          values{torch::randn({10, 12}, torch::kDouble), torch::randn({10, 12}, torch::kDouble)};
      const at::Tensor joint = ops::joint_attention(qkv, keys, values, shape, documents, path);
      const at::Tensor plain = ops::causal_attention(qkv, shape, documents, Path::kReference);
      CHECK(test::max_error(joint, plain) < 1e-12);
      CHECK(test::max_error(ops::joint_attention(qkv, {}, {}, shape, documents, path), plain) < 1e-12);
      const at::Tensor of_joint = torch::autograd::grad({(joint * upstream).sum()}, {qkv})[0],
                       of_plain = torch::autograd::grad({(plain * upstream).sum()}, {qkv})[0];
      CHECK(test::max_error(of_joint, of_plain) < 1e-12);
      const std::vector<at::Tensor> seen{q, q};
      CHECK(test::max_error(ops::joint_attention(qkv, seen, values, shape, documents, path), plain) > 1e-2);
    }
  }
}

TEST_CASE("our kernels agree with all scores written out, values and every gradient, within the reference's own precision") {
  torch::manual_seed(3);
  const std::vector<ops::Documents> all_documents{ops::Documents::uniform(2, 5), ops::Documents{{3, 6, 1}}};
  for (const auto& [shape, count] : {std::pair{kShape, 3}, {HeadShape{2, 2, 40}, 1}, {HeadShape{6, 2, 64}, 17}}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const bool joint : {false, true}) {
        for (const ops::Documents& documents : all_documents) {
          std::vector<at::Tensor> inputs{torch::randn({10, shape.columns()}, torch::kDouble)};
          for (int i = 0; i < 2 * count; ++i) inputs.push_back(torch::randn({10, shape.kv_columns()}, torch::kDouble));
          const at::Tensor upstream = torch::randn({10, shape.query_columns()}, torch::kDouble).to(type);
          const auto run = [&](at::ScalarType compute, Path path) {
            std::vector<at::Tensor> in;
            for (const at::Tensor& input : inputs) in.push_back(input.to(type).to(compute).requires_grad_());
            const std::vector<at::Tensor> keys(in.begin() + 1, in.begin() + 1 + count), values(in.begin() + 1 + count, in.end());
            const at::Tensor y = joint ? ops::joint_attention(in[0], keys, values, shape, documents, path)
                                       : ops::depth_attention(in[0].narrow(1, 0, shape.query_columns()), keys, values, shape, path);
            auto out = torch::autograd::grad({(y * upstream.to(compute)).sum()}, in);
            out.push_back(y.detach());
            return out;
          };
          const auto exact = run(at::kDouble, Path::kReference), plain = run(type, Path::kReference), fused = run(type, Path::kFused);
          for (std::size_t i = 0; i < fused.size(); ++i) {
            auto bound = test::compare(fused[i], plain[i], exact[i], 3);
            // Not the weights are kept but their logsumexp: exp(score - lse) errs by what rounding the exponent loses, both up to 8 here.
            bound.allowed += 8 * 0x1p-23 * exact[i].abs().max().item<double>();
            INFO(c10::toString(type) << (joint ? " joint" : " separate") << " head_dim " << shape.head_dim << " result " << i << " error "
                                     << bound.error << " allowed " << bound.allowed);
            const bool is_flat = !joint && count == 1 && i < 2;  // one entry has weight 1 whatever its key
            if (!is_flat) CHECK(exact[i].abs().max().item<double>() > 1e-3);
            CHECK(bound.holds());
          }
        }
      }
    }
  }
}
