// What holds for every architecture and every kind of depth attention.
#include "support/catch.h"
#include "support/tolerance.h"
#include "support/variants.h"

using namespace meristem;
using ops::Path;

TEST_CASE("the loss's gradient agrees with finite differences in fp64 in every parameter of every architecture") {
  for (const test::Variant& variant : test::variants()) {
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kDouble, Path::kLibrary));
    const Batch batch = test::random_batch(2, 7, variant.config.vocab_size, 4);
    model->loss(batch, variant.plan).loss_sum.backward();
    torch::NoGradGuard no_grad;
    for (const ParameterInfo& info : model->parameter_infos()) {
      if (info.role == Role::kBalance) continue;  // chooses; the loss is flat in it
      torch::manual_seed(5);
      const at::Tensor direction = torch::randn_like(info.tensor);
      const double h = 1e-6;  // the quotient errs by h^2 f''' and by loss * 1e-16 / h; a choice of experts must not flip within it
      at::Tensor parameter = info.tensor;
      const at::Tensor start = parameter.clone();
      parameter.copy_(start + h * direction);
      const double up = model->loss(batch, variant.plan).loss_sum.item<double>();
      parameter.copy_(start - h * direction);
      const double down = model->loss(batch, variant.plan).loss_sum.item<double>();
      parameter.copy_(start);
      INFO(variant.name << ": " << info.name);
      REQUIRE(parameter.grad().defined());
      CHECK((parameter.grad() * direction).sum().item<double>() == Approx((up - down) / (2 * h)).epsilon(1e-6).margin(1e-6));
    }
  }
}

TEST_CASE("changing token t leaves the logits before t alone in every architecture: to the bit where dense, to 1e-6 with experts") {
  for (const test::Variant& variant : test::variants()) {
    for (const Path path : {Path::kReference, Path::kFused}) {
      const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, path));
      torch::NoGradGuard no_grad;
      Batch batch = test::random_batch(1, 16, variant.config.vocab_size, 3);
      const at::Tensor before = model->logits(batch, variant.plan);
      batch.tokens_N = batch.tokens_N.clone();
      batch.tokens_N[9] = (batch.tokens_N[9] + 1) % variant.config.vocab_size;
      const at::Tensor after = model->logits(batch, variant.plan);
      INFO(variant.name << ", " << ops::path_name(path));
      // Experts receive other groups of rows, whose products round differently.
      const double allowed = variant.config.feed_forward.kind == FeedForwardKind::kExperts ? 1e-6 * before.abs().max().item<double>() : 0;
      CHECK(test::max_error(before.narrow(0, 0, 9), after.narrow(0, 0, 9)) <= allowed);
      CHECK(test::max_error(before[9], after[9]) > 1e-3);
      CHECK(test::max_error(before[15], after[15]) > 1e-3);
    }
  }
}

TEST_CASE("cached logits equal uncached ones in every architecture, and the cache holds the sequence's keys and values alone") {
  for (const test::Variant& variant : test::variants()) {
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kDouble, 1e-12}}) {
      const auto model = test::make_lively_model(variant.config, test::build_of(type, Path::kLibrary));
      torch::NoGradGuard no_grad;
      const Batch batch = test::random_batch(1, 12, variant.config.vocab_size, 11);
      const at::Tensor whole = model->logits(batch, variant.plan);
      DecodeCache cache;
      std::int64_t at = 0;
      for (const std::int64_t count : {4, 1, 1, 3, 2, 1}) {
        const at::Tensor last = model->decode(batch.tokens_N.narrow(0, at, count), variant.plan, cache);
        at += count;
        INFO(variant.name << " after " << at);
        CHECK(test::max_error(last, whole[at - 1]) < tolerance * whole.abs().max().item<double>());
      }
      CHECK(static_cast<std::int64_t>(cache.calls.size()) == variant.plan.num_calls());
      for (std::size_t r = 0; r < cache.calls.size(); ++r) {
        const auto& mixers = cache.calls[r];
        const nn::DecodeState& attention = mixers.front();  // keys and values
        REQUIRE(attention.size() == 2);
        const std::int64_t window = variant.config.attention.window_of(variant.plan.calls()[r]), kept = window == 0 ? 12 : window;
        CHECK((attention[0].size(0) == kept && attention[0].size(1) == 16 && attention[1].sizes() == attention[0].sizes()));
        CHECK(std::all_of(mixers.begin() + 1, mixers.end(), [](const nn::DecodeState& other) { return other.empty(); }));
      }
    }
  }
}

TEST_CASE("packed documents are as if alone in every architecture") {
  for (const test::Variant& variant : test::variants()) {
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kDouble, Path::kLibrary));
    torch::NoGradGuard no_grad;
    const Batch first = test::random_batch(1, 9, variant.config.vocab_size, 7),
                second = test::random_batch(1, 5, variant.config.vocab_size, 8);
    Batch packed;
    packed.tokens_N = torch::cat({first.tokens_N, second.tokens_N});
    packed.positions_N = torch::cat({first.positions_N, second.positions_N});
    packed.targets_N = torch::cat({first.targets_N, second.targets_N});
    packed.documents = {{9, 5}};
    const at::Tensor alone = torch::cat({model->logits(first, variant.plan), model->logits(second, variant.plan)});
    INFO(variant.name);
    CHECK(test::max_error(model->logits(packed, variant.plan), alone) < 1e-12 * alone.abs().max().item<double>());
  }
}

TEST_CASE("fast paths give the reference's loss and gradients within its own precision in every architecture") {
  for (const test::Variant& variant : test::variants()) {
    const Batch batch = test::random_batch(2, 16, variant.config.vocab_size, 6);
    const auto gradients = [&](at::ScalarType type, Path path) {
      const auto model = test::make_lively_model(variant.config, test::build_of(type, path));
      model->loss(batch, variant.plan).loss_sum.backward();
      NamedTensors out;
      for (const ParameterInfo& info : model->parameter_infos()) {
        if (info.role != Role::kBalance) out.add(info.name, info.tensor.grad());
      }
      return out;
    };
    const NamedTensors exact = gradients(at::kDouble, Path::kReference), plain = gradients(at::kFloat, Path::kReference),
                       fused = gradients(at::kFloat, Path::kFused);
    for (const auto& [name, grad] : fused) {
      const auto bound = test::compare(grad, plain.at(name), exact.at(name), 3);
      INFO(variant.name << " " << name << " error " << bound.error << " allowed " << bound.allowed);
      CHECK(bound.holds());
    }
  }
}

// Gathered gradients (ops::DepthGradients) where their chain is cut: behind a truncation calls record nothing, and checkpointed calls
// gather none.
TEST_CASE("gradients of the depth's entries are the reference's with truncation and with every second call checkpointed") {
  for (const char* kind : {"separate", "joint", "values"}) {
    for (const std::int64_t every : {0, 2}) {
      ModelConfig config = test::tiny_dreamer(kind, 2);
      config.blocks = 3;
      config.depth_plan = "0, (1)x4, 2";
      config.feed_forward = test::tiny_config().feed_forward;
      config.loop.injection = Injection::kAdd;
      config.loop.backprop_last = 2;
      const DepthPlan plan = config.depth_plan.plan;
      const Batch batch = test::random_batch(2, 16, config.vocab_size, 6);
      const auto gradients = [&](at::ScalarType type, Path path, std::int64_t checkpoint_every) {
        ModelBuild build = test::build_of(type, path);
        build.checkpoint_every = checkpoint_every;
        const auto model = test::make_lively_model(config, build);
        model->loss(batch, plan).loss_sum.backward();
        NamedTensors out;
        for (const ParameterInfo& info : model->parameter_infos()) out.add(info.name, info.tensor.grad());
        return out;
      };
      const NamedTensors exact = gradients(at::kDouble, Path::kReference, 0), plain = gradients(at::kFloat, Path::kReference, 0),
                         fused = gradients(at::kFloat, Path::kFused, every);
      for (const auto& [name, grad] : fused) {
        const auto bound = test::compare(grad, plain.at(name), exact.at(name), 3);
        INFO(kind << ", every " << every << ", " << name << " error " << bound.error << " allowed " << bound.allowed);
        CHECK(bound.holds());
      }
    }
  }
}

// A call's last addition makes the norm that the next call begins with. Where the next call begins with another tensor, that norm is not
// used.
TEST_CASE("a norm that the call before has made is the one that a call makes by itself, to the bit") {
  struct Copies : nn::CallObserver {
    at::Tensor leaving(const nn::CallContext&, const at::Tensor&, const at::Tensor& output_ND) override { return output_ND.clone(); }
  };
  for (test::Variant variant : test::variants()) {
    for (const bool truncated : {false, true}) {
      if (truncated && !variant.plan.loop()) continue;
      if (truncated) variant.config.loop.backprop_last = 1;
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const auto model = test::make_lively_model(variant.config, test::build_of(type, Path::kFused));
        const Batch batch = test::random_batch(2, 16, variant.config.vocab_size, 6);
        const auto gradients = [&](nn::CallObserver* observer) {
          model->zero_grad();
          const Observing observing(*model, observer);
          const at::Tensor loss = model->loss(batch, variant.plan).loss_sum;
          loss.backward();
          NamedTensors out;
          out.add("loss", loss.detach());
          for (const ParameterInfo& info : model->parameter_infos()) {
            if (info.tensor.grad().defined()) out.add(info.name, info.tensor.grad().clone());
          }
          return out;
        };
        Copies copies;
        const NamedTensors alone = gradients(&copies), handed_on = gradients(nullptr);
        CHECK(alone.size() == handed_on.size());
        for (const auto& [name, value] : alone) {
          INFO(variant.name << ", truncated " << truncated << ", " << name);
          CHECK(torch::equal(value, handed_on.at(name)));
        }
      }
    }
  }
}
