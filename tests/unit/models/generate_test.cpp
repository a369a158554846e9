#include "eval/generate.h"

#include "core/errors.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"

using namespace meristem;
using ops::Path;

TEST_CASE("cached logits equal uncached ones, token by token and in pieces") {
  const ModelConfig config = test::tiny_config();
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kDouble, 1e-12}}) {
    for (const Path path : {Path::kReference, Path::kLibrary}) {
      for (const char* text : {"0-2", "0-1, (1)x2, 2"}) {
        const auto model = test::make_model(config, test::build_of(type, path));
        torch::NoGradGuard no_grad;
        const DepthPlan plan = DepthPlan::parse(text);
        const Batch batch = test::random_batch(1, 12, config.vocab_size, 11);
        const at::Tensor whole = model->logits(batch, plan);
        DecodeCache cache;
        std::int64_t at = 0;
        for (const std::int64_t count : {4, 1, 1, 3, 2, 1}) {
          const at::Tensor last = model->decode(batch.tokens_N.narrow(0, at, count), plan, cache);
          at += count;
          INFO(text << " after " << at);
          CHECK(test::max_error(last, whole[at - 1]) < tolerance * whole.abs().max().item<double>());
        }
        CHECK(static_cast<std::int64_t>(cache.calls.size()) == plan.num_calls());
      }
    }
  }
}

TEST_CASE("sampling obeys temperature, top-k and top-p") {
  const std::vector<float> logits{1.0f, 3.0f, 2.0f, -1.0f};
  GenerateOptions options;
  const auto draw = [&](double uniform) { return sample_token(logits.data(), 4, options, uniform); };
  options.temperature = 0;
  CHECK(draw(0.99) == 1);
  options.temperature = 1;
  CHECK(draw(0.0) == 1);       // the most likely comes first
  CHECK(draw(0.999999) == 3);  // the least likely last
  options.top_k = 2;
  CHECK(draw(0.999999) == 2);
  options.top_k = 0;
  options.top_p = 0.5;  // the first token alone holds 0.64
  CHECK(draw(0.999999) == 1);
  options.top_p = 1;
  // Frequencies follow the softmax.
  int count = 0;
  for (int i = 0; i < 10000; ++i) count += draw((i + 0.5) / 10000) == 1;
  CHECK(count / 10000.0 == Approx(std::exp(3.0) / (std::exp(1.0) + std::exp(3.0) + std::exp(2.0) + std::exp(-1.0))).margin(2e-4));
}

TEST_CASE("generation is reproducible, stops where it should, and refuses bad input") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  const DepthPlan plan = DepthPlan::plain(config.blocks);
  GenerateOptions options;
  options.max_tokens = 20;
  const auto run = [&] { return generate(*model, plan, config.vocab_size, {1, 2, 3}, options, at::kCPU, {}); };
  const auto first = run();
  CHECK(first.size() == 20);
  CHECK(run() == first);
  options.stop_tokens = {first[5]};
  const auto stopped = run();
  CHECK(stopped.size() <= 5);
  CHECK(std::equal(stopped.begin(), stopped.end(), first.begin()));
  CHECK_THROWS_AS(generate(*model, plan, config.vocab_size, {}, options, at::kCPU, {}), InputError);
  CHECK_THROWS_WITH(generate(*model, plan, config.vocab_size, {61}, options, at::kCPU, {}), Catch::Contains("token id 61"));
  options.top_p = 0;
  CHECK_THROWS_AS(run(), InputError);
}
