#include "eval/generate.h"

#include "core/errors.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/tolerance.h"
#include "support/variants.h"

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

namespace {

using Ids = std::vector<std::int32_t>;

Ids random_ids(std::size_t count, std::uint64_t seed) {
  torch::manual_seed(seed);
  const at::Tensor ids = torch::randint(61, {static_cast<std::int64_t>(count)}, torch::kInt);
  return {ids.data_ptr<std::int32_t>(), ids.data_ptr<std::int32_t>() + count};
}

std::vector<Ids> prompts_of_many_lengths() {
  std::vector<Ids> prompts;
  for (const std::size_t count : {3, 1, 40, 9, 20, 33, 2}) prompts.push_back(random_ids(count, 100 + count));
  return prompts;
}

}  // namespace

TEST_CASE("generation is reproducible, stops where it should, and refuses bad input") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  const DepthPlan plan = DepthPlan::plain(config.blocks);
  GenerateOptions options;
  options.max_tokens = 20;
  const auto of = [&](const std::vector<Ids>& prompts) { return generate(*model, plan, config.vocab_size, prompts, options, at::kCPU); };
  const auto run = [&] { return of({{1, 2, 3}}).front(); };
  const auto first = run();
  CHECK(first.size() == 20);
  CHECK(run() == first);
  options.stop_tokens = {first[5]};
  const auto stopped = run();
  CHECK(stopped.size() <= 5);
  CHECK(std::equal(stopped.begin(), stopped.end(), first.begin()));
  CHECK_THROWS_WITH(of({{}}), Catch::Contains("prompt: is empty"));
  CHECK_THROWS_WITH(of({{1}, {61}}), Catch::Contains("prompt 1: token id 61"));
  for (const std::int64_t batch : {std::int64_t{0}, kMostAtOnce + 1}) {
    options.batch = batch;
    CHECK_THROWS_WITH(run(), Catch::Contains("batch: found"));
  }
  options.batch = 1;
  options.max_tokens = 0;
  CHECK(of({{1}, {2}}) == std::vector<Ids>(2));
  CHECK(of({}).empty());
  options.top_p = 0;
  CHECK_THROWS_AS(run(), InputError);
}

TEST_CASE("texts that are written together are those written alone") {
  const std::vector<Ids> prompts = prompts_of_many_lengths();
  for (const test::Variant& variant : test::variants()) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto model = test::make_lively_model(variant.config, test::build_of(type, Path::kFused));
      const auto write = [&](const std::vector<Ids>& some, const GenerateOptions& options) {
        return generate(*model, variant.plan, variant.config.vocab_size, some, options, at::kCPU);
      };
      for (const double temperature : {0.0, 1.0}) {
        GenerateOptions options;
        options.max_tokens = 30;
        options.temperature = temperature;
        std::vector<Ids> alone;
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          GenerateOptions own = options;
          own.seed += i;  // each prompt has its own draws
          alone.push_back(write({prompts[i]}, own).front());
        }
        options.stop_tokens = {alone[0][4], alone[2][29]};  // texts end at different places, one not at all perhaps
        for (Ids& text : alone) {
          text.erase(std::find_first_of(text.begin(), text.end(), options.stop_tokens.begin(), options.stop_tokens.end()), text.end());
        }
        for (const std::int64_t batch : {1, 2, 7, 32}) {
          options.batch = batch;
          INFO(variant.name << ", " << type << ", temperature " << temperature << ", " << batch << " at once");
          CHECK(write(prompts, options) == alone);
        }
      }
    }
  }
}

TEST_CASE("a sequence's logits do not depend on what is decoded beside it, to the bit") {
  torch::NoGradGuard no_grad;
  const std::vector<Ids> prompts = prompts_of_many_lengths();
  for (const test::Variant& variant : test::variants()) {
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, Path::kFused));
    const auto after_prompt = [&](std::size_t i) {
      DecodeCache cache;
      model->decode(torch::tensor(prompts[i], torch::kInt), variant.plan, cache);
      return cache;
    };
    std::vector<DecodeCache> caches;
    std::vector<DecodeCache*> pointers;
    for (std::size_t i = 0; i < prompts.size(); ++i) caches.push_back(after_prompt(i));
    for (DecodeCache& cache : caches) pointers.push_back(&cache);
    const at::Tensor next = torch::arange(static_cast<std::int64_t>(prompts.size()), torch::kInt);
    const at::Tensor together = model->decode(next, std::vector<std::int64_t>(prompts.size(), 1), variant.plan, pointers);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      DecodeCache cache = after_prompt(i);
      INFO(variant.name << ", text " << i);
      CHECK(torch::equal(model->decode(next.narrow(0, static_cast<std::int64_t>(i), 1), variant.plan, cache),
                         together[static_cast<std::int64_t>(i)]));
    }
  }
}

TEST_CASE("what is kept grows as it must, with any room taken at first, with and without windows") {
  torch::NoGradGuard no_grad;
  for (const std::int64_t window : {0, 5, 70}) {
    ModelConfig config = test::tiny_config(2);
    config.attention.window = window;
    const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
    const DepthPlan plan = DepthPlan::plain(config.blocks);
    const Batch batch = test::random_batch(1, 300, config.vocab_size, 5);
    const at::Tensor whole = model->logits(batch, plan);
    for (const std::int64_t expected : {0, 3, 64, 150, 299, 300, 5000}) {
      DecodeCache cache;
      cache.expected = expected;
      std::int64_t at = 0;
      while (at < 300) {
        const std::int64_t count = std::min<std::int64_t>(300 - at, at % 7 == 3 ? 66 : 1);
        const at::Tensor last = model->decode(batch.tokens_N.narrow(0, at, count), plan, cache);
        at += count;
        INFO("window " << window << ", room for " << expected << ", after " << at);
        REQUIRE(test::max_error(last, whole[at - 1]) < 1e-5 * whole.abs().max().item<double>());
      }
      const std::int64_t kept = cache.calls[0][0][0].storage().nbytes() / 4 / 16;  // rows of memory
      CHECK(kept <= (window == 0 ? std::max<std::int64_t>(expected, 600) : std::max<std::int64_t>(64, 2 * (2 * window + 66))));
    }
  }
}

TEST_CASE("a caller may end one answer, and hears each as it ends") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  GenerateOptions options;
  options.max_tokens = 10;
  options.batch = 2;
  std::vector<Ids> heard(3);
  std::vector<std::size_t> ended;
  const auto on_token = [&](std::size_t number, std::int32_t id) {
    heard[number].push_back(id);
    return number != 1 || heard[number].size() < 4;
  };
  const auto answers = generate(*model, DepthPlan::plain(config.blocks), config.vocab_size, {{1}, {2, 3}, {4}}, options, at::kCPU, on_token,
                                [&](std::size_t number, const Ids& answer) {
                                  CHECK(answer == heard[number]);
                                  ended.push_back(number);
                                });
  CHECK(answers == heard);
  CHECK((heard[0].size() == 10 && heard[1].size() == 4 && heard[2].size() == 10));
  CHECK(ended == std::vector<std::size_t>{1, 0, 2});
}
