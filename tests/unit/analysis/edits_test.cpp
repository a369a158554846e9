#include "analysis/edits.h"

#include "support/catch.h"
#include "unit/analysis/subjects.h"

using namespace meristem;
using Order = std::vector<std::int64_t>;

namespace {

ItemTask some_items() {
  ItemTask task{"some", {}, {}};
  const auto texts = test::random_texts(12, 9, 4);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    task.items.push_back({texts[i], {{1, 2}, {3}, {4, 5}}});
    task.gold.push_back(i % 3);
  }
  return task;
}

}  // namespace

TEST_CASE("orders of edited calls") {
  CHECK(edited_order(Edit::kSkip, 6, 1, 2) == Order{0, 3, 4, 5});
  CHECK(edited_order(Edit::kSwap, 6, 1, 2) == Order{0, 3, 4, 1, 2, 5});
  CHECK(edited_order(Edit::kReverse, 6, 2, 4) == Order{0, 1, 5, 4, 3, 2});
  CHECK(edited_order(Edit::kSkip, 4, 0, 4).empty());
  CHECK(edited_order(Edit::kSkip, 4, 3, 2).empty());
  CHECK(edited_order(Edit::kSwap, 4, 1, 2).empty());
  CHECK(edited_order(Edit::kReverse, 4, 0, 1).empty());
  CHECK(places_of({0, 3, 4, 1, 2, 5}) == Order{0, 1, 2, 3, 4, 5});
  CHECK(places_of({0, 3, 4, 5}) == Order{0, 3, 4, 5});
  CHECK(edit_sizes(Edit::kSkip, 8) == Order{1, 2, 4});
  CHECK(edit_sizes(Edit::kSwap, 8) == Order{1, 2, 4});
  CHECK(edit_sizes(Edit::kReverse, 8) == Order{2, 4, 8});
  CHECK(edit_sizes(Edit::kSwap, 1).empty());
}

TEST_CASE("equal blocks may change places") {
  const auto model = test::fp32_model(test::tiny_config(4));
  for (std::int64_t block = 1; block < 4; ++block) test::copy_block(*model, 0, block);
  const Subject subject{*model, DepthPlan::plain(4), 61, at::kCPU};
  const auto texts = test::random_texts(3, 30, 2);
  const std::vector<ItemTask> tasks{some_items()};
  Work work;
  for (const Edit edit : {Edit::kSwap, Edit::kReverse}) {
    const Measured found = measure_edit(subject, edit, texts, tasks, work);
    CHECK(test::largest(found.values) < 1e-6);
    CHECK(test::largest(found.variants.at("some")) == 0);
    CHECK(found.variants.at("some").size(0) == 12);
  }
  CHECK(test::largest(measure_edit(subject, Edit::kSkip, texts, tasks, work).values) > 1e-3);

  const auto other = test::fp32_model(test::tiny_config(4));
  test::scale_mixer(*other, 2, "attention", 0);
  test::scale_mixer(*other, 2, "feed_forward", 0);
  const Measured skipped = measure_edit({*other, DepthPlan::plain(4), 61, at::kCPU}, Edit::kSkip, texts, {}, work);
  CHECK(test::largest(skipped.values.select(1, 0).select(1, 2)) < 1e-6);
  CHECK(test::largest(skipped.values.select(1, 0).select(1, 1)) > 1e-3);
  CHECK(skipped.values[0][1][3].isnan().item<bool>());
}

TEST_CASE("the first token keeps to its plan") {
  const torch::NoGradGuard no_grad;
  const auto model = test::fp32_model(test::tiny_config(5));
  const Subject subject{*model, DepthPlan::plain(5), 61, at::kCPU};
  const TokenIds text = test::random_texts(1, 30, 2).front();
  const Batch batch = batch_of({text, {5, 6, 7}}, at::kCPU);
  FirstTokenKept kept(subject, {5, text.front()});
  const Order order{0, 2, 1, 3, 4};
  kept.follow(places_of(order));
  at::Tensor edited, plain = model->stream(batch, subject.plan), free = model->stream(batch, DepthPlan(order));
  {
    const Observing observing(*model, &kept);
    edited = model->stream(batch, DepthPlan(order));
  }
  for (const std::int64_t first : {std::int64_t{0}, static_cast<std::int64_t>(text.size())}) {
    CHECK((edited[first] - plain[first]).abs().max().item<double>() < 1e-5);
    CHECK((free[first] - plain[first]).abs().max().item<double>() > 1e-3);
    CHECK((edited[first + 1] - plain[first + 1]).abs().max().item<double>() > 1e-3);
    CHECK((edited[first + 1] - free[first + 1]).abs().max().item<double>() > 1e-5);
  }
  // The same order changes nothing at all.
  kept.follow({0, 1, 2, 3, 4});
  const Observing observing(*model, &kept);
  CHECK((model->stream(batch, subject.plan) - plain).abs().max().item<double>() < 1e-5);
}

TEST_CASE("edits in every architecture") {
  const auto texts = test::random_texts(2, 20, 2);
  for (const test::Variant& variant : test::variants()) {
    if (variant.config.loop.injection != Injection::kNone || variant.plan.num_calls() < 2) continue;
    INFO(variant.name);
    const auto model = test::make_lively_model(variant.config, test::build_of(at::kFloat, ops::Path::kFused));
    Work work;
    for (const Edit edit : {Edit::kSkip, Edit::kSwap, Edit::kReverse}) {
      const Measured found = measure_edit({*model, variant.plan, 61, at::kCPU}, edit, texts, {some_items()}, work);
      CHECK(found.values[0][0][0].isfinite().item<bool>());
    }
  }
}

TEST_CASE("right choices and guesses") {
  const at::Tensor found = right_choices({{-1, -2}, {-1, -2}, {-3, -3, -4}}, {0, 1, 1});
  CHECK(found.equal(torch::tensor({1.0, 0.0, 0.5}, torch::kDouble)));
}
