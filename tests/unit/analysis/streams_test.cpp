#include "analysis/streams.h"

#include "support/catch.h"
#include "unit/analysis/subjects.h"

using namespace meristem;
using ops::Path;

namespace {

std::map<std::string, at::Tensor> gradients(Model& model, const Batch& batch, const DepthPlan& plan, nn::CallObserver* observer,
                                            double& loss) {
  const Observing observing(model, observer);
  for (const ParameterInfo& info : model.parameter_infos()) {
    at::Tensor tensor = info.tensor;
    tensor.set_requires_grad(true);
    tensor.mutable_grad() = at::Tensor();
  }
  const nn::LossSums sums = model.loss(batch, plan);
  sums.loss_sum.backward();
  loss = sums.loss_sum.item<double>();
  std::map<std::string, at::Tensor> out;
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.tensor.grad().defined()) out[info.name] = info.tensor.grad().clone();
  }
  return out;
}

double at_place(const at::Tensor& tensor, std::int64_t i) { return tensor[i].item<double>(); }
double at_place(const at::Tensor& tensor, std::int64_t i, std::int64_t j) { return tensor[i][j].item<double>(); }

// |sum_l x_l exp(-2 pi i l / period)|^2 / (L sum x^2) of x without its mean and linear trend: [L] -> the share at a period.
double power_at(const at::Tensor& values, double period) {
  const at::Tensor l = torch::arange(values.size(0), torch::kDouble), line = torch::stack({torch::ones_like(l), l}, 1);
  const at::Tensor x = values - line.mv(at::linalg_solve(line.t().mm(line), line.t().mv(values)));
  const at::Tensor angle = l * (2 * M_PI / period);
  const double real = (x * angle.cos()).sum().item<double>(), imaginary = (x * angle.sin()).sum().item<double>();
  return (real * real + imaginary * imaginary) / (static_cast<double>(values.size(0)) * x.square().sum().item<double>());
}

}  // namespace

TEST_CASE("an idle observer changes no bit") {
  const Batch batch = test::random_batch(2, 11, 61, 5);
  for (const test::Variant& variant : test::variants()) {
    INFO(variant.name);
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, Path::kFused));
    nn::CallObserver nothing;
    double without = 0, with = 0;
    const auto plain = gradients(*model, batch, variant.plan, nullptr, without),
               observed = gradients(*model, batch, variant.plan, &nothing, with);
    CHECK(without == with);
    REQUIRE(plain.size() == observed.size());
    for (const auto& [name, gradient] : plain) CHECK(gradient.equal(observed.at(name)));
  }
}

TEST_CASE("a recording adds up in every architecture") {
  const torch::NoGradGuard no_grad;
  for (const test::Variant& variant : test::variants()) {
    INFO(variant.name);
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, Path::kFused));
    const Subject subject{*model, variant.plan, 61, at::kCPU};
    const Batch batch = test::random_batch(1, 17, 61, 5);
    const Recording recording = record(subject, batch);
    REQUIRE(recording.calls.size() == static_cast<std::size_t>(variant.plan.num_calls()));
    REQUIRE(recording.streams.size() == recording.calls.size() + 1);
    CHECK(recording.streams.back().equal(model->stream(batch, variant.plan)));
    for (std::size_t r = 0; r < recording.calls.size(); ++r) {
      const Recording::Call& call = recording.calls[r];
      REQUIRE(call.between.size() == model->parts(subject.block(static_cast<std::int64_t>(r))).size());
      CHECK(call.between.back().equal(call.output));
      CHECK(call.output.equal(recording.streams[r + 1]));
      at::Tensor sum = call.input;
      for (std::size_t m = 0; m < call.between.size(); ++m) sum = sum + call.added(static_cast<std::int64_t>(m));
      CHECK((sum - call.output).abs().max().item<double>() < 1e-4);
      if (call.depth_weights_M.defined() && variant.config.depth_attention->kind != DepthAttentionKind::kJoint)
        CHECK(call.depth_weights_M.sum().item<double>() == Approx(1).epsilon(1e-5));
    }
  }
}

TEST_CASE("norms and cosines of known contributions") {
  const auto model = test::fp32_model(test::tiny_config(3));
  test::scale_mixer(*model, 1, "attention", 0);
  const Subject subject{*model, DepthPlan::plain(3), 61, at::kCPU};
  const Recording recording = record(subject, batch_of(test::random_texts(1, 20, 3), at::kCPU));
  const Measurements found = measure_norms(subject, recording);
  CHECK(at_place(found.at("norms").variants.at("attention"), 1) == 0);
  CHECK(at_place(found.at("norms").variants.at("attention"), 0) > 0);
  const Recording::Call& call = recording.calls[1];
  const at::Tensor added = call.output - call.input;
  CHECK(at_place(found.at("norms").values, 1) == Approx((added.norm(2, 1) / call.input.norm(2, 1)).mean().item<double>()).epsilon(1e-5));
  CHECK(at_place(found.at("residual_norm").values, 3) == Approx(recording.streams[3].norm(2, 1).mean().item<double>()).epsilon(1e-5));

  Recording by_hand;
  const at::Tensor h = torch::randn({4, 8});
  for (int r = 0; r < 3; ++r) {
    by_hand.calls.push_back({h, h * 1.5, {h * 1.25, h * 1.5}, {}, 0, {}});
    by_hand.streams.push_back(h);
  }
  by_hand.streams.push_back(h);
  const Measurements known = measure_norms(subject, by_hand);
  CHECK(at_place(known.at("norms").values, 0) == Approx(0.5));
  CHECK(at_place(known.at("norms").variants.at("attention"), 0) == Approx(0.25));
  CHECK(at_place(known.at("norms").variants.at("feed_forward"), 0) == Approx(0.2));
  CHECK(at_place(known.at("cosines").values, 2) == Approx(1));
}

TEST_CASE("copied blocks show their period") {
  const auto model = test::fp32_model(test::tiny_config(16));
  for (std::int64_t block = 0; block < 4; ++block) test::scale_mixer(*model, block, "attention", block == 3 ? 5 : 0.2);
  for (std::int64_t block = 4; block < 16; ++block) test::copy_block(*model, block % 4, block);
  const auto norms = [&](const DepthPlan& plan) {
    const Subject subject{*model, plan, 61, at::kCPU};
    return measure_norms(subject, record(subject, batch_of(test::random_texts(1, 40, 3), at::kCPU)))
        .at("norms")
        .variants.at("attention")
        .log();
  };
  // A pulse at one call of four has a third of its power at a period of four, and two thirds at its overtone.
  const at::Tensor copies = norms(DepthPlan::plain(16)),
                   others = norms(DepthPlan::parse("0, 5, 2, 7, 6, 4, 11, 9, 3, 8, 10, 13, 1, 14, 12, 15"));
  CHECK(power_at(copies, 4) > 0.2);
  CHECK(power_at(copies, 4) > 3 * power_at(copies, 5));
  CHECK(power_at(others, 4) < power_at(copies, 4) / 2);
}

TEST_CASE("experts as counted by hand") {
  const auto model = test::fp32_model(test::tiny_dreamer("none"));
  const Subject subject{*model, DepthPlan::parse("(0)x3"), 61, at::kCPU};
  Recording recording;
  const std::vector<std::vector<std::vector<std::int64_t>>> chosen{{{0, 1}, {0, 1}}, {{0, 1}, {0, 2}}, {{2, 3}, {0, 3}}};  // call, token
  for (const auto& call : chosen) {
    Recording::Call own;
    own.chosen_Tk = torch::stack({torch::tensor(call[0], torch::kLong), torch::tensor(call[1], torch::kLong)});
    own.experts = 4;
    recording.calls.push_back(own);
  }
  const Measurements found = measure_experts(subject, recording);
  CHECK(found.at("expert_diversity").values.item<double>() == Approx(4.0 / 6));  // both tokens meet four different ones in six choices
  const at::Tensor& overlap = found.at("expert_overlap").values;
  CHECK(at_place(overlap, 0, 0) == 1);
  CHECK(at_place(overlap, 0, 1) == Approx((1 + 1.0 / 3) / 2));
  CHECK(at_place(overlap, 0, 2) == Approx((0 + 1.0 / 3) / 2));
  CHECK(found.at("expert_counts").values[2].equal(torch::tensor({1.0, 0.0, 1.0, 2.0}, torch::kDouble)));
  // Drawn without looking: an expert is met in three calls with 1 - (1/2)^3; two pairs of four have 0, 1, 2 in common with 1/6, 4/6, 1/6.
  CHECK(found.at("expert_diversity").variants.at("by chance").item<double>() == Approx(4 * (1 - 0.125) / 6));
  CHECK(at_place(found.at("expert_overlap").variants.at("by chance"), 0, 1) == Approx(4.0 / 6 / 3 + 1.0 / 6));

  // Two layers have experts of their own: nothing in common to speak of.
  const Subject layers{*model, DepthPlan::parse("0-2"), 61, at::kCPU};
  CHECK(measure_experts(layers, recording).at("expert_diversity").values.item<double>() == Approx(1));
  CHECK(std::isnan(at_place(measure_experts(layers, recording).at("expert_overlap").values, 0, 1)));
}

TEST_CASE("a fixed router has the diversity of one call") {
  const torch::NoGradGuard no_grad;
  const auto model = test::fp32_model(test::tiny_dreamer("none"));
  at::Tensor bias = test::parameter(*model, "blocks.0.feed_forward.balance_bias");
  bias.zero_();
  bias[1] = 100;
  bias[4] = 100;
  const Subject subject{*model, DepthPlan::parse("(0)x4"), 61, at::kCPU};
  const Measurements found = measure_experts(subject, record(subject, batch_of(test::random_texts(1, 20, 3), at::kCPU)));
  CHECK(found.at("expert_diversity").values.item<double>() == Approx(0.25));
  CHECK(at_place(found.at("expert_overlap").values, 0, 3) == Approx(1));
  CHECK(at_place(found.at("expert_counts").values, 2, 4) == 20);
  CHECK(at_place(found.at("expert_counts").values, 2, 0) == 0);
}

TEST_CASE("depth attention without queries is even") {
  const torch::NoGradGuard no_grad;
  const auto model = test::fp32_model(test::tiny_dreamer("separate"));
  test::parameter(*model, "blocks.0.depth_attention.query.weight").zero_();
  const Subject subject{*model, DepthPlan::parse("(0)x4"), 61, at::kCPU};
  const at::Tensor weights = measure_depth_attention(subject, record(subject, batch_of(test::random_texts(1, 20, 3), at::kCPU)))
                                 .at("depth_attention_weights")
                                 .values;
  REQUIRE(weights.sizes() == at::IntArrayRef({4, 4}));
  for (std::int64_t r = 0; r < 4; ++r) {
    for (std::int64_t i = 0; i < 4; ++i) {
      if (i <= r) CHECK(at_place(weights, r, i) == Approx(1.0 / static_cast<double>(r + 1)));
      if (i > r) CHECK(std::isnan(at_place(weights, r, i)));
    }
  }
  CHECK(measure_depth_attention({*model, DepthPlan::plain(1), 61, at::kCPU}, Recording{}).empty());
}

TEST_CASE("weights of a copied block are alike") {
  const auto model = test::fp32_model(test::tiny_config(3));
  test::copy_block(*model, 0, 2);
  const Measured products = weight_products(*model);
  for (const auto& [name, p] : products.variants) {
    INFO(name);
    CHECK(at_place(p, 0, 2) / std::sqrt(at_place(p, 0, 0) * at_place(p, 2, 2)) == Approx(1));
    CHECK(std::abs(at_place(p, 0, 1)) / std::sqrt(at_place(p, 0, 0) * at_place(p, 1, 1)) < 0.1);
    CHECK(at_place(p, 0, 1) == at_place(p, 1, 0));
  }
  CHECK(products.variants.size() == 2);
  CHECK((products.variants.at("attention") + products.variants.at("feed_forward")).allclose(products.values));
}
