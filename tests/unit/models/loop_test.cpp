// Loops in training: what a repeat, an injection and a truncation are, each held against the same thing written out by hand.
#include <cmath>

#include "core/errors.h"
#include "models/calls.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"
#include "support/variants.h"

using namespace meristem;
using ops::Path;

namespace {

ModelConfig looped(Injection injection = Injection::kNone) {
  ModelConfig config = test::tiny_config(4);
  config.loop.injection = injection;
  return config;
}

NamedTensors gradients(Model& model, const Batch& batch, const DepthPlan& plan) {
  model.zero_grad();
  model.loss(batch, plan).loss_sum.backward();
  NamedTensors out;
  for (const ParameterInfo& info : model.parameter_infos()) {
    out.add(info.name, info.tensor.grad().defined() ? info.tensor.grad().clone() : torch::zeros_like(info.tensor));
  }
  return out;
}

// Copies `from`'s weights; block i of the copy is block source[i].
void copy_weights(const Model& from, Model& to, const std::vector<std::int64_t>& source) {
  torch::NoGradGuard no_grad;
  NamedTensors values;
  for (const ParameterInfo& info : from.parameter_infos()) values.add(info.name, info.tensor);
  for (const ParameterInfo& info : to.parameter_infos()) {
    std::string name = info.name;
    if (name.rfind("blocks.", 0) == 0) {
      const auto end = name.find('.', 7);
      name = "blocks." + std::to_string(source.at(static_cast<std::size_t>(std::stoll(name.substr(7, end - 7))))) + name.substr(end);
    }
    at::Tensor(info.tensor).copy_(values.at(name));
  }
}

double relative_error(const at::Tensor& a, const at::Tensor& b) { return test::max_error(a, b) / (1e-30 + b.abs().max().item<double>()); }

}  // namespace

TEST_CASE("one repeat is the plain decoder, to the bit, without injection and with e added") {
  for (const Injection injection : {Injection::kNone, Injection::kAdd}) {
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const auto model = test::make_model(looped(injection), test::build_of(type, Path::kLibrary));
      const auto plain = test::make_model(test::tiny_config(4), test::build_of(type, Path::kLibrary));
      const Batch batch = test::random_batch(2, 9, 61, 3);
      const DepthPlan once = DepthPlan::parse("0, (1-2)x1, 3");
      CHECK(torch::equal(model->logits(batch, once), plain->logits(batch, DepthPlan::plain(4))));
      const NamedTensors a = gradients(*model, batch, once), b = gradients(*plain, batch, DepthPlan::plain(4));
      for (const auto& [name, grad] : a) CHECK(torch::equal(grad, b.at(name)));
    }
  }
}

// The gradients of blocks under a plan, from a model in which every call has a block of its own: sums over the calls from `first` on.
void check_summed(const std::string& text, std::optional<std::int64_t> backprop_last, std::int64_t checkpoint_every) {
  const DepthPlan plan = DepthPlan::parse(text);
  INFO(text << ", backprop_last " << backprop_last.value_or(0) << ", checkpoint every " << checkpoint_every);
  ModelConfig config = looped();
  config.loop.backprop_last = backprop_last;
  ModelBuild build = test::build_of(at::kDouble, Path::kLibrary);
  const auto unrolled = test::make_model(test::tiny_config(plan.num_calls()), build);
  build.checkpoint_every = checkpoint_every;
  const auto model = test::make_model(config, build);
  copy_weights(*model, *unrolled, plan.calls());
  const Batch batch = test::random_batch(2, 9, 61, 4);
  const NamedTensors tied = gradients(*model, batch, plan);
  const NamedTensors untied = gradients(*unrolled, batch, DepthPlan::plain(plan.num_calls()));
  // Without an injection nothing flows past a cut, so the calls from it on have the gradients of the whole.
  const std::int64_t first =
      backprop_last ? plan.loop()->start + std::max<std::int64_t>(0, plan.loop()->repeats - *backprop_last) * plan.loop()->length : 0;
  for (const auto& [name, grad] : tied) {
    at::Tensor sum = torch::zeros_like(grad);
    for (std::int64_t r = first; r < plan.num_calls(); ++r) {
      const std::string block = "blocks." + std::to_string(plan.calls()[static_cast<std::size_t>(r)]) + ".";
      if (name.rfind(block, 0) == 0) sum += untied.at("blocks." + std::to_string(r) + "." + name.substr(block.size()));
    }
    if (name.rfind("blocks.", 0) != 0) {
      if (first > 0 && name == "embedding.weight") continue;  // its input side lies behind the cut
      sum = untied.at(name);
    }
    INFO(name);
    CHECK(relative_error(grad, sum) < 1e-12);
  }
}

TEST_CASE("a block's gradient is the sum over its calls, of any plan, however it is written") {
  for (const char* text :
       {"0, (1-2)x3, 3", "(0)x2, (0)x3, 1-3", "(0)x5, 1-3", "(0-1)x3, (1-3)x2", "(0, (1)x2, 2, (1)x3)x2, 3", "3-0, (2-1)x2, 0-3"}) {
    for (const std::int64_t every : {0, 1, 2}) check_summed(text, {}, every);
  }
  // Blocks of the loop are called before and behind it too.
  for (const std::int64_t last : {1, 2}) {
    for (const std::int64_t every : {0, 1, 2}) {
      check_summed("0-1, (1-2)x3, 1, 3", last, every);
      check_summed("(0-3)x4", last, every);
    }
  }
}

TEST_CASE("injections are what they say, and the adapter learns") {
  const Batch batch = test::random_batch(2, 9, 61, 5);
  for (const Injection injection : {Injection::kAdd, Injection::kConcat}) {
    const auto model = test::make_model(looped(injection), test::build_of(at::kDouble, Path::kReference));
    torch::manual_seed(1);
    const at::Tensor h = torch::randn({5, 32}, torch::kDouble), e = torch::randn({5, 32}, torch::kDouble);
    nn::Linear adapter{nullptr};
    if (injection == Injection::kConcat) {
      adapter = nn::Linear(64, 32, 0.02, nn::Placement{at::kCPU, at::kDouble, at::kDouble, at::kDouble});
      torch::NoGradGuard no_grad;
      at::Tensor(adapter->weight()).normal_();
    }
    LoopConfig config;
    config.injection = injection;
    LoopRun run(config, DepthPlan::parse("0, (1-2)x3, 3"), adapter);
    CHECK(torch::equal(run.input(h, 0), h));
    const at::Tensor first = run.input(e, 1);
    CHECK(torch::equal(run.input(h, 2), h));
    const at::Tensor second = run.input(h, 3);
    CHECK(torch::equal(run.input(h, 7), h));
    if (adapter.is_empty()) {
      CHECK(torch::equal(first, e));
      CHECK(torch::equal(second, h + e));
    } else {
      const at::Tensor on_state = adapter->weight().narrow(1, 0, 32), on_input = adapter->weight().narrow(1, 32, 32);
      CHECK(test::max_error(first, e.mm(on_state.t()) + e.mm(on_input.t())) < 1e-12);
      CHECK(test::max_error(second, h.mm(on_state.t()) + e.mm(on_input.t())) < 1e-12);
    }

    // In the model: more repeats see e again, the plan must say where, and the map gets a gradient.
    const DepthPlan plan = DepthPlan::parse("0, (1-2)x3, 3");
    const auto none = test::make_model(looped(), test::build_of(at::kDouble, Path::kReference));
    CHECK(test::max_error(model->logits(batch, plan), none->logits(batch, plan)) > 1e-3);
    CHECK_THROWS_WITH(model->logits(batch, DepthPlan::plain(4)), Catch::Contains("model.loop.injection") && Catch::Contains("(0-3)x2"));
    const NamedTensors grads = gradients(*model, batch, plan);
    CHECK(grads.contains("injection.weight") == (injection == Injection::kConcat));
    if (grads.contains("injection.weight")) CHECK(grads.at("injection.weight").abs().max().item<double>() > 0);
  }
}

TEST_CASE("gradients with injection agree with finite differences in fp64") {
  for (const Injection injection : {Injection::kAdd, Injection::kConcat}) {
    const auto model = test::make_model(looped(injection), test::build_of(at::kDouble, Path::kLibrary));
    const Batch batch = test::random_batch(1, 7, 61, 6);
    const DepthPlan plan = DepthPlan::parse("0, (1-2)x3, 3");
    const NamedTensors grads = gradients(*model, batch, plan);
    torch::NoGradGuard no_grad;
    for (const ParameterInfo& info : model->parameter_infos()) {
      if (info.name.find("qkv") == std::string::npos && info.name.find("injection") == std::string::npos && info.name != "embedding.weight")
        continue;
      torch::manual_seed(7);
      const at::Tensor direction = torch::randn_like(info.tensor), start = info.tensor.clone();
      const auto loss_at = [&](double h) {
        at::Tensor(info.tensor).copy_(start + h * direction);
        const double loss = model->loss(batch, plan).loss_sum.item<double>();
        at::Tensor(info.tensor).copy_(start);
        return loss;
      };
      INFO(word_of(injection) << " " << info.name);
      CHECK((grads.at(info.name) * direction).sum().item<double>() ==
            Approx((loss_at(1e-6) - loss_at(-1e-6)) / 2e-6).epsilon(1e-6).margin(1e-6));
    }
  }
}

TEST_CASE("truncated gradients are those of a detach by hand") {
  const Batch batch = test::random_batch(2, 9, 61, 8);
  for (const Injection injection : {Injection::kNone, Injection::kAdd}) {
    for (const std::int64_t last : {1, 2}) {
      ModelConfig config = looped(injection);
      config.loop.backprop_last = last;
      const auto model = test::make_model(config, test::build_of(at::kDouble, Path::kLibrary));
      const DepthPlan plan = DepthPlan::parse("0, (1-2)x3, 3");
      const NamedTensors truncated = gradients(*model, batch, plan);

      // By hand: an unrolled model whose early repeats are frozen copies. Their weights get no gradient, and neither does what only they
      // see.
      const auto unrolled = test::make_model(test::tiny_config(8), test::build_of(at::kDouble, Path::kLibrary));
      copy_weights(*model, *unrolled, plan.calls());
      const double whole = model->loss(batch, plan).loss_sum.item<double>();
      if (injection == Injection::kNone)
        CHECK(whole == Approx(unrolled->loss(batch, DepthPlan::plain(8)).loss_sum.item<double>()).epsilon(1e-12));
      const NamedTensors full = [&] {
        ModelConfig through = looped(injection);
        const auto same = test::make_model(through, test::build_of(at::kDouble, Path::kLibrary));
        return gradients(*same, batch, plan);
      }();
      // The value does not change, the gradient of the looped blocks does.
      CHECK(relative_error(truncated.at("blocks.1.attention.qkv.weight"), full.at("blocks.1.attention.qkv.weight")) > 1e-3);
      CHECK(relative_error(truncated.at("blocks.3.attention.qkv.weight"), full.at("blocks.3.attention.qkv.weight")) < 1e-12);
      if (injection == Injection::kNone) {
        // The prelude lies behind the cut; the coda and the last repeats are those of the unrolled model.
        CHECK(truncated.at("blocks.0.attention.qkv.weight").abs().max().item<double>() == 0);
        const NamedTensors copies = gradients(*unrolled, batch, DepthPlan::plain(8));
        at::Tensor sum = torch::zeros_like(copies.at("blocks.1.attention.qkv.weight"));
        for (std::int64_t repeat = 3 - last; repeat < 3; ++repeat)
          sum += copies.at("blocks." + std::to_string(1 + 2 * repeat) + ".attention.qkv.weight");
        CHECK(relative_error(truncated.at("blocks.1.attention.qkv.weight"), sum) < 1e-12);
      } else {
        // e reaches the last repeats, so the prelude learns.
        CHECK(truncated.at("blocks.0.attention.qkv.weight").abs().max().item<double>() > 0);
      }
    }
  }
}

TEST_CASE("behind a cut the prelude learns through what its calls left in the memory of the depth, and through nothing else") {
  const Batch batch = test::random_batch(2, 9, 61, 8);
  for (const auto& kind : {std::optional<DepthAttentionKind>(), std::optional(DepthAttentionKind::kSeparate),
                           std::optional(DepthAttentionKind::kJoint), std::optional(DepthAttentionKind::kValues)}) {
    ModelConfig config = test::tiny_dreamer(kind ? word_of(*kind) : "none", 2);
    config.blocks = 4;
    config.loop.backprop_last = 1;
    const auto model = test::make_lively_model(config, test::build_of(at::kDouble, Path::kLibrary));
    const NamedTensors grads = gradients(*model, batch, DepthPlan::parse("0-1, (2)x3, 3"));
    INFO((kind ? word_of(*kind) : "none"));
    CHECK((grads.at("blocks.0.attention.qkv.weight").abs().max().item<double>() > 0) == kind.has_value());
  }
}

TEST_CASE("the recorded stream is the RMS after the embedding and after each call") {
  const auto model = test::make_model(looped(), test::build_of(at::kDouble, Path::kReference));
  const Batch batch = test::random_batch(1, 9, 61, 9);
  StreamRms recorder;
  model->observe(&recorder);
  const DepthPlan plan = DepthPlan::parse("0, (1-2)x3, 3");
  const double recorded = model->loss(batch, plan).loss_sum.item<double>();
  model->observe(nullptr);
  const std::vector<at::Tensor> rms = recorder.values();
  REQUIRE(rms.size() == 9);
  CHECK(model->loss(batch, plan).loss_sum.item<double>() == recorded);
  CHECK(rms.size() == 9);
  at::Tensor embedding;
  for (const ParameterInfo& info : model->parameter_infos()) {
    if (info.name == "embedding.weight") embedding = info.tensor;
  }
  const at::Tensor start = embedding.index_select(0, batch.tokens_N.to(at::kLong));
  CHECK(rms[0].item<double>() == Approx(start.square().mean().sqrt().item<double>()).epsilon(1e-12));
  CHECK(rms[8].item<double>() > rms[0].item<double>());
  // A shorter plan's last state is an earlier one of the longer.
  StreamRms shorter;
  model->observe(&shorter);
  model->logits(batch, DepthPlan::parse("0, (1-2)x2"));
  model->observe(nullptr);
  CHECK(shorter.values().back().item<double>() == Approx(rms[5].item<double>()).epsilon(1e-12));
}

TEST_CASE("cached logits equal uncached ones for every repeat of inference looping") {
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kDouble, 1e-12}}) {
    for (const Injection injection : {Injection::kNone, Injection::kAdd, Injection::kConcat}) {
      const auto model = test::make_model(looped(injection), test::build_of(type, Path::kLibrary));
      torch::NoGradGuard no_grad;
      const Batch batch = test::random_batch(1, 9, 61, 10);
      const DepthPlan trained = DepthPlan::parse("0, (1-2)x2, 3");
      at::Tensor before;
      for (std::int64_t r = 0; r <= 4; ++r) {
        // The same twice: as an edit of the calls, and as the text that --plan takes.
        const DepthPlan plan = trained.repeat(1, 2, r);
        REQUIRE(plan.loop()->repeats == 2 + r);
        const at::Tensor whole = model->logits(batch, plan);
        CHECK(torch::equal(whole, model->logits(batch, DepthPlan::parse(plan.print_loop()))));
        if (before.defined()) CHECK(test::max_error(whole, before) > 1e-3);
        before = whole;
        DecodeCache cache;
        std::int64_t at = 0;
        for (const std::int64_t count : {4, 1, 3, 1}) {
          const at::Tensor last = model->decode(batch.tokens_N.narrow(0, at, count), plan, cache);
          at += count;
          INFO(word_of(injection) << " r " << r << " after " << at);
          CHECK(test::max_error(last, whole[at - 1]) < tolerance * whole.abs().max().item<double>());
        }
        CHECK(static_cast<std::int64_t>(cache.calls.size()) == plan.num_calls());
      }
    }
  }
}
