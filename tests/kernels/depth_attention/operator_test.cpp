// The operators around the depth attention kernels, with the kernels' own source on the CPU layer: what they pass (places, strides,
// entries, scale) and what autograd makes of it, against the reference path, every access checked against the tensors' bounds.
#include <numeric>

#include <torch/torch.h>

#include "kernels/device_tensors.h"
#include "ops/attention_passes.h"
#include "ops/depth_attention_passes.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::HeadShape;

namespace {

using Tensors = std::vector<at::Tensor>;

// What `attend` makes of copies of the inputs in a type: gradients of all inputs, then the result.
template <class Attend>
Tensors gradients_and_result(const Tensors& inputs, const at::Tensor& upstream, at::ScalarType type, const Attend& attend) {
  Tensors in;
  for (const at::Tensor& input : inputs) in.push_back(input.to(at::kBFloat16).to(type).requires_grad_());
  const at::Tensor y = attend(in);
  Tensors out = torch::autograd::grad({y}, in, {upstream.to(type)});
  out.push_back(y.detach());
  return out;
}

void check_within_own_precision(const Tensors& found, const Tensors& plain, const Tensors& exact) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto bound = test::compare(found[i], plain[i], exact[i], i + 1 == found.size() ? 2 : 3);
    INFO("result " << i << ", error " << bound.error << ", allowed " << bound.allowed);
    CHECK(found[i].scalar_type() == at::kBFloat16);
    CHECK(exact[i].abs().max().item<double>() > 1e-3);
    CHECK(bound.holds());
  }
}

}  // namespace

TEST_CASE("fused depth attention agrees with the reference path, values and gradients of queries and entries") {
  const test::TensorsAsDeviceMemory on_the_device;
  torch::manual_seed(7);
  for (const auto& [shape, count] :
       {std::pair{HeadShape{4, 2, 64}, 3}, {HeadShape{2, 2, 256}, 2}, {HeadShape{8, 1, 128}, 5}, {HeadShape{3, 3, 40}, 9}}) {
    INFO("heads " << shape.heads << " over " << shape.kv_heads << " of " << shape.head_dim);
    // A query and the entries as nn makes them: parts of packed rows.
    Tensors inputs{torch::randn({11, shape.columns()}, torch::kDouble)};
    for (int i = 0; i < count; ++i) inputs.push_back(torch::randn({11, 2 * shape.kv_columns()}, torch::kDouble));
    const at::Tensor upstream = torch::randn({11, shape.query_columns()}, torch::kDouble).to(at::kBFloat16);
    const auto run = [&](at::ScalarType type, bool fused) {
      return gradients_and_result(inputs, upstream, type, [&](const Tensors& in) {
        Tensors keys, values;
        for (std::size_t i = 1; i < in.size(); ++i) {
          const auto parts = in[i].split(shape.kv_columns(), 1);
          keys.push_back(parts[0]);
          values.push_back(parts[1]);
        }
        const at::Tensor q = in[0].narrow(1, 0, shape.query_columns());
        return fused ? ops::fused_depth_attention(ops::kDepthPassesCuda, q, keys, values, shape)
                     : ops::depth_attention(q, keys, values, shape, ops::Path::kReference);
      });
    };
    check_within_own_precision(run(at::kBFloat16, true), run(at::kBFloat16, false), run(at::kDouble, false));
  }
}

TEST_CASE("fused joint attention agrees with the reference path, values and gradients of the projection and the entries") {
  const test::TensorsAsDeviceMemory on_the_device;
  torch::manual_seed(8);
  for (const auto& [shape, count] : {std::pair{HeadShape{4, 2, 64}, 3}, {HeadShape{2, 1, 128}, 1}, {HeadShape{8, 1, 64}, 2}}) {
    for (const ops::Documents& documents : {ops::Documents{{70}}, ops::Documents{{3, 20, 1}}}) {
      const std::int64_t tokens = std::accumulate(documents.lengths.begin(), documents.lengths.end(), std::int64_t{0});
      INFO("heads " << shape.heads << " over " << shape.kv_heads << " of " << shape.head_dim << ", " << tokens << " tokens");
      Tensors inputs{torch::randn({tokens, shape.columns()}, torch::kDouble)};
      for (int i = 0; i < 2 * count; ++i) inputs.push_back(torch::randn({tokens, shape.kv_columns()}, torch::kDouble));
      const at::Tensor upstream = torch::randn({tokens, shape.query_columns()}, torch::kDouble).to(at::kBFloat16);
      const auto run = [&](at::ScalarType type, bool fused) {
        return gradients_and_result(inputs, upstream, type, [&](const Tensors& in) {
          const Tensors keys(in.begin() + 1, in.begin() + 1 + count), values(in.begin() + 1 + count, in.end());
          return fused ? ops::fused_joint_attention(ops::kDepthPassesCuda, in[0], keys, values, shape, documents.on(at::kCPU))
                       : ops::joint_attention(in[0], keys, values, shape, documents, ops::Path::kReference);
        });
      };
      check_within_own_precision(run(at::kBFloat16, true), run(at::kBFloat16, false), run(at::kDouble, false));
    }
  }
}

TEST_CASE("calls that share entries gather their gradients in place: what autograd sums, within a rounding an addition") {
  const test::TensorsAsDeviceMemory on_the_device;
  torch::manual_seed(9);
  const HeadShape shape{4, 2, 64};
  Tensors inputs;
  for (int i = 0; i < 7; ++i) inputs.push_back(torch::randn({6, i == 0 ? shape.query_columns() : shape.kv_columns()}, torch::kDouble));
  const at::Tensor upstream = torch::randn({6, shape.query_columns()}, torch::kDouble).to(at::kBFloat16);
  // Three calls, each with one entry more, whose query is the call before's result.
  const auto run = [&](at::ScalarType type, bool fused, bool gathers) {
    return gradients_and_result(inputs, upstream, type, [&](const Tensors& in) {
      ops::SharedEntries shared;
      if (gathers) shared.of = c10::make_intrusive<ops::DepthGradients>();
      at::Tensor q = in[0];
      Tensors keys, values;
      for (std::size_t call = 1; call <= 3; ++call) {
        keys.push_back(in[call] * 1);
        values.push_back(in[call + 3] * 1);
        shared.keys = shared.values = call;
        q = q + (fused ? ops::fused_depth_attention(ops::kDepthPassesCuda, q, keys, values, shape, shared)
                       : ops::depth_attention(q, keys, values, shape, ops::Path::kReference));
      }
      return q;
    });
  };
  const auto exact = run(at::kDouble, false, false), plain = run(at::kBFloat16, false, false);
  check_within_own_precision(run(at::kBFloat16, true, false), plain, exact);
  check_within_own_precision(run(at::kBFloat16, true, true), plain, exact);
}

TEST_CASE("joint attention without entries is attention") {
  const test::TensorsAsDeviceMemory on_the_device;
  const HeadShape shape{2, 1, 64};
  const ops::Documents documents = ops::Documents{{4, 9}}.on(at::kCPU);
  const at::Tensor upstream = torch::randn({13, 128}).to(at::kBFloat16);
  const at::Tensor joint = torch::randn({13, 256}).to(at::kBFloat16).requires_grad_(), plain = joint.detach().clone().requires_grad_();
  const at::Tensor y = ops::fused_joint_attention(ops::kDepthPassesCuda, joint, {}, {}, shape, documents),
                   expected = ops::fused_attention(ops::kAttentionPassesCuda, plain, shape, documents);
  CHECK(torch::equal(y, expected));
  y.backward(upstream);
  expected.backward(upstream);
  CHECK(torch::equal(joint.grad(), plain.grad()));
}

TEST_CASE("rows that the kernel cannot read in place are copied, and what it does not take is refused") {
  const test::TensorsAsDeviceMemory on_the_device;
  const HeadShape shape{2, 1, 64};
  const at::Tensor q = torch::randn({5, 128}).to(at::kBFloat16), k = torch::randn({5, 64}).to(at::kBFloat16),
                   v = torch::randn({5, 64}).to(at::kBFloat16);
  const at::Tensor expected = ops::fused_depth_attention(ops::kDepthPassesCuda, q, {k, k}, {v, v}, shape);
  const auto turned = [](const at::Tensor& x) { return x.t().contiguous().t(); };
  const auto shifted = [](const at::Tensor& x) { return at::cat({x.narrow(1, 0, 1), x, x.narrow(1, 0, 2)}, 1).narrow(1, 1, x.size(1)); };
  CHECK(torch::equal(ops::fused_depth_attention(ops::kDepthPassesCuda, turned(q), {shifted(k), turned(k)}, {v, shifted(v)}, shape),
                     expected));
  at::Tensor leaf = q.detach().requires_grad_(), other = q.detach().requires_grad_();
  ops::fused_depth_attention(ops::kDepthPassesCuda, leaf, {k, v}, {v, k}, shape).backward(turned(q));
  ops::fused_depth_attention(ops::kDepthPassesCuda, other, {k, v}, {v, k}, shape).backward(q);
  CHECK(torch::equal(leaf.grad(), other.grad()));
  CHECK_THROWS_WITH(ops::fused_depth_attention(ops::kDepthPassesCuda, q.to(at::kFloat), {k}, {v}, shape),
                    Catch::Contains("BFloat16, got a query of Float"));
  CHECK_THROWS_WITH(ops::fused_depth_attention(ops::kDepthPassesCuda, q, {k}, {v.to(at::kFloat)}, shape),
                    Catch::Contains("an entry of Float"));
  const Tensors many(129, k);
  CHECK_THROWS_WITH(ops::fused_depth_attention(ops::kDepthPassesCuda, q, many, many, shape),
                    Catch::Contains("129 entries; allowed: 1 to 128"));
}
