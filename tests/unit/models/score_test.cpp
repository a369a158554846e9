#include <algorithm>

#include "eval/score.h"

#include "core/errors.h"
#include "support/catch.h"
#include "support/tiny_model.h"
#include "support/variants.h"

using namespace meristem;
using ops::Path;

namespace {

// From the logits of each text alone, as the definition says.
double score_by_definition(Model& model, const DepthPlan& plan, const ChoiceItem& item, const std::vector<std::int32_t>& choice) {
  std::vector<std::int32_t> tokens = item.context;
  tokens.insert(tokens.end(), choice.begin(), choice.end());
  const auto length = static_cast<std::int64_t>(tokens.size());
  Batch batch;
  batch.tokens_N = torch::tensor(tokens, torch::kInt);
  batch.positions_N = torch::arange(length, torch::kInt);
  batch.documents = ops::Documents::uniform(1, length);
  const at::Tensor log_probabilities = model.logits(batch, plan).to(torch::kDouble).log_softmax(1);
  double sum = 0;
  for (auto t = static_cast<std::int64_t>(item.context.size()); t < length; ++t) {
    sum += log_probabilities[t - 1][tokens[static_cast<std::size_t>(t)]].item<double>();
  }
  return sum;
}

const std::vector<ChoiceItem> kItems{{{1, 2, 3}, {{4}, {5, 6}, {7, 8, 9}}}, {{10}, {{11, 12}, {13}}}, {{20, 21, 22, 23, 24, 25}, {{26}}}};

}  // namespace

TEST_CASE("a choice's score is the log-probability of its tokens, whatever it shares a batch with") {
  torch::NoGradGuard no_grad;
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kDouble, Path::kReference));
  for (const char* text : {"0-2", "0, (1)x3, 2", "0, 2"}) {
    const DepthPlan plan = DepthPlan::parse(text);
    for (const std::int64_t batch_tokens : {1, 8, 1000}) {
      const auto scores = score_choices(*model, plan, config.vocab_size, kItems, at::kCPU, {}, {}, batch_tokens);
      REQUIRE(scores.size() == kItems.size());
      for (std::size_t i = 0; i < kItems.size(); ++i) {
        REQUIRE(scores[i].size() == kItems[i].choices.size());
        for (std::size_t c = 0; c < scores[i].size(); ++c) {
          INFO(text << " item " << i << " choice " << c);
          CHECK(scores[i][c] == Approx(score_by_definition(*model, plan, kItems[i], kItems[i].choices[c])).epsilon(1e-10));
        }
      }
    }
  }
}

TEST_CASE("choices that share a context score as if each were alone, in every architecture and on every path") {
  torch::NoGradGuard no_grad;
  ChoiceItem item{{}, {{4}, {5, 6, 7}, {8, 9, 10, 11, 12, 13, 14}}};  // longer than the windows of the variants
  for (std::int32_t id = 0; id < 11; ++id) item.context.push_back(20 + id);
  for (const test::Variant& variant : test::variants()) {
    const auto truth = test::make_lively_model(variant.config, test::build_of(at::kDouble, Path::kReference));
    for (const auto& [type, path, tolerance] :
         {std::tuple{at::kDouble, Path::kReference, 1e-10}, std::tuple{at::kDouble, Path::kLibrary, 1e-10},
          std::tuple{at::kFloat, Path::kFused, 2e-5}}) {
      const auto model = test::make_lively_model(variant.config, test::build_of(type, path));
      const auto scores = score_choices(*model, variant.plan, variant.config.vocab_size, {item, kItems[1]}, at::kCPU);
      for (std::size_t c = 0; c < item.choices.size(); ++c) {
        INFO(variant.name << " path " << static_cast<int>(path) << " choice " << c);
        CHECK(scores[0][c] == Approx(score_by_definition(*truth, variant.plan, item, item.choices[c])).epsilon(tolerance));
      }
    }
  }
}

namespace {

// Items with nested common beginnings: of no tokens, of few, of many, of all.
std::vector<ChoiceItem> items_that_begin_alike() {
  std::vector<std::int32_t> long_text;
  for (std::int32_t t = 0; t < 40; ++t) long_text.push_back((7 * t + 3) % 61);
  const auto item = [&](std::size_t common, std::vector<std::int32_t> own) {
    own.insert(own.begin(), long_text.begin(), long_text.begin() + static_cast<std::ptrdiff_t>(common));
    return ChoiceItem{own, {{4}, {5, 6, 7}, {8, 9}}};
  };
  return {item(20, {1, 2, 3}), item(0, {1}), item(40, {1}),      item(40, {}),          item(20, {1, 2, 4}),
          item(5, {60}),       item(40, {}), item(30, {50, 51}), item(40, {1, 2, 3, 4})};
}

// Counts the tokens that go through a model.
class Counted : public Model {
 public:
  explicit Counted(std::shared_ptr<Model> model) : model_(std::move(model)) {}
  nn::LossSums loss(const Batch& batch, const DepthPlan& plan) override {
    tokens += batch.tokens_N.numel();
    return model_->loss(batch, plan);
  }
  at::Tensor stream(const Batch& batch, const DepthPlan& plan) override { return model_->stream(batch, plan); }
  at::Tensor read_out(const at::Tensor& h_ND) const override { return model_->read_out(h_ND); }
  at::Tensor decode(const at::Tensor& tokens_N, const std::vector<std::int64_t>& lengths, const DepthPlan& plan,
                    const std::vector<DecodeCache*>& caches) override {
    return model_->decode(tokens_N, lengths, plan, caches);
  }
  void begin_update(const DepthPlan& plan, std::int64_t strands) override { model_->begin_update(plan, strands); }
  bool runs_on_strands() const override { return model_->runs_on_strands(); }
  at::Tensor expert_counts() const override { return model_->expert_counts(); }
  void after_step(const at::Tensor& updated, const at::Tensor& counts) override { model_->after_step(updated, counts); }
  const nn::ExpertLoads& expert_loads() const override { return model_->expert_loads(); }
  std::vector<ModelPart> parts(std::int64_t block) const override { return model_->parts(block); }
  nn::CallCost call_cost(std::int64_t block, const nn::CallPlace& place) const override { return model_->call_cost(block, place); }
  double head_flops() const override { return model_->head_flops(); }
  nn::CallCost injection_cost() const override { return model_->injection_cost(); }
  std::int64_t tokens = 0;

 private:
  std::shared_ptr<Model> model_;
};

}  // namespace

TEST_CASE("items that begin alike score as each alone, and what they share is read once") {
  torch::NoGradGuard no_grad;
  const std::vector<ChoiceItem> items = items_that_begin_alike();
  for (const test::Variant& variant : test::variants()) {
    const auto truth = test::make_lively_model(variant.config, test::build_of(at::kDouble, Path::kReference));
    for (const auto& [type, path, tolerance] :
         {std::tuple{at::kDouble, Path::kReference, 1e-10}, std::tuple{at::kFloat, Path::kFused, 2e-5}}) {
      Counted model(test::make_lively_model(variant.config, test::build_of(type, path)));
      for (const std::int64_t batch_tokens : {60, 1000}) {
        model.tokens = 0;
        const auto scores = score_choices(model, variant.plan, variant.config.vocab_size, items, at::kCPU, {}, {}, batch_tokens);
        for (std::size_t i = 0; i < items.size(); ++i) {
          for (std::size_t c = 0; c < items[i].choices.size(); ++c) {
            INFO(variant.name << " path " << static_cast<int>(path) << " item " << i << " choice " << c);
            CHECK(scores[i][c] == Approx(score_by_definition(*truth, variant.plan, items[i], items[i].choices[c])).epsilon(tolerance));
          }
        }
      }
      // The last pass took all items: 39 tokens of the text once; what goes on behind 20 of them, twice, behind 30, and behind 39, twice;
      // the five of an item that shares too few; and six tokens of choices each.
      CHECK(model.tokens == 39 + 2 * 2 + 1 + 1 + 4 + 5 + 9 * 6);
    }
  }
}

TEST_CASE("a caller hears how far it is, up to all choices, whatever the batches and the share") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  std::size_t choices = 0;
  for (const ChoiceItem& item : kItems) choices += item.choices.size();
  for (const std::int64_t batch_tokens : {1, 8, 1000}) {
    for (const Share share : {Share{0, 1}, Share{1, 2}}) {
      std::vector<std::size_t> heard;
      const auto scored = [&](std::size_t done, std::size_t total) {
        CHECK(total == choices);
        heard.push_back(done);
      };
      score_choices(*model, DepthPlan::plain(config.blocks), config.vocab_size, kItems, at::kCPU, share, scored, batch_tokens);
      REQUIRE(!heard.empty());
      CHECK(std::is_sorted(heard.begin(), heard.end()));
      CHECK(heard.back() == choices);
    }
  }
}

TEST_CASE("items that cannot be scored are refused by their number") {
  const ModelConfig config = test::tiny_config();
  const auto model = test::make_model(config, test::build_of(at::kFloat, Path::kFused));
  const auto score = [&](std::vector<ChoiceItem> items) {
    return score_choices(*model, DepthPlan::plain(config.blocks), config.vocab_size, items, at::kCPU);
  };
  CHECK_THROWS_WITH(score({kItems[0], {{}, {{1}}}}), Catch::Contains("item 1: the context has no token"));
  CHECK_THROWS_WITH(score({{{1}, {{2}, {}}}}), Catch::Contains("item 0: a choice has no token"));
  CHECK_THROWS_WITH(score({{{1}, {}}}), Catch::Contains("item 0: has no choice"));
  CHECK_THROWS_WITH(score({{{1}, {{61}}}}), Catch::Contains("token id 61 is outside the vocabulary of 61"));
  CHECK(longest_positions(kItems) == 7);
}
