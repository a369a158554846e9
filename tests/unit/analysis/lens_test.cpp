#include "analysis/lens.h"

#include "analysis/edits.h"
#include "core/errors.h"
#include "support/catch.h"
#include "unit/analysis/subjects.h"

using namespace meristem;

namespace {

std::vector<double> row(const at::Tensor& tensor) {
  const at::Tensor own = tensor.contiguous();
  return {own.data_ptr<double>(), own.data_ptr<double>() + own.numel()};
}

}  // namespace

TEST_CASE("a lens on the last call is exact") {
  const auto model = test::fp32_model(test::tiny_config(4));
  for (const char* mixer : {"attention", "feed_forward"}) test::scale_mixer(*model, 3, mixer, 0);
  const Subject subject{*model, DepthPlan::plain(4), 61, at::kCPU};
  const TokenIds text = test::random_texts(1, 40, 2).front();
  const Measurements found = measure_lens(subject, {}, text, record(subject, batch_of(text, 1, at::kCPU)));
  const auto overlap = row(found.at("lens_overlap").values), kl = row(found.at("lens_kl").values);
  CHECK(overlap[3] == 1);
  CHECK(kl[3] == 0);
  CHECK(overlap[2] == 1);
  CHECK(kl[2] == 0);
  CHECK(overlap[0] < 1);
  CHECK(kl[0] > 1e-3);
}

TEST_CASE("a lens is a plan that ends there") {
  const torch::NoGradGuard no_grad;
  const auto model = test::fp32_model(test::tiny_config(4));
  const Subject subject{*model, DepthPlan::plain(4), 61, at::kCPU};
  const TokenIds text = test::random_texts(1, 40, 2).front();
  const Batch batch = batch_of(text, 1, at::kCPU);
  const at::Tensor truth = model->logits(batch, subject.plan).log_softmax(1),
                   early = model->logits(batch, DepthPlan::parse("0-1")).log_softmax(1);
  const Measurements found = measure_lens(subject, {}, text, record(subject, batch));
  CHECK(row(found.at("lens_kl").values)[1] == Approx((early.exp() * (early - truth)).sum(1).mean().item<double>()).epsilon(1e-5));
  const at::Tensor targets = batch.targets_N.slice(0, 0, -1).to(torch::kLong);
  CHECK(row(found.at("early_exit_accuracy").values)[1] ==
        Approx(early.slice(0, 0, -1).argmax(1).eq(targets).to(torch::kDouble).mean().item<double>()));

  ItemTask task{"some", {{text, {{1, 2}, {3, 4}}}, {{7, 8}, {{5}, {6}}}}, {0, 1}};
  Work work;
  const at::Tensor exits = measure_early_exit(subject, {}, task, /*injects=*/false, work);
  REQUIRE(exits.sizes() == at::IntArrayRef({2, 4}));
  CHECK(exits.equal(measure_early_exit(subject, {}, task, /*injects=*/true, work)));  // the whole plan, its stream put in the last place
  for (std::int64_t r = 0; r < 4; ++r) {
    std::vector<std::int64_t> calls(subject.plan.calls().begin(), subject.plan.calls().begin() + r + 1);
    CHECK(exits.select(1, r).equal(right_choices(score_choices(*model, DepthPlan(calls), 61, task.items, at::kCPU), task.gold)));
  }
}

TEST_CASE("a tuned lens is nearer to the model") {
  const auto model = test::fp32_model(test::tiny_config(4));
  const Subject subject{*model, DepthPlan::plain(4), 61, at::kCPU};
  LensTraining training;
  training.steps = 30;
  Work work;
  const Lens lens = train_lens(subject, test::random_texts(20, 60, 3), training, 1, work);
  CHECK(train_lens(subject, test::random_texts(20, 60, 3), training, 1, work).maps.equal(lens.maps));
  const TokenIds text = test::random_texts(1, 60, 8).front();
  const Recording recording = record(subject, batch_of(text, 1, at::kCPU));
  const auto tuned = row(measure_lens(subject, lens, text, recording, "tuned_").at("tuned_lens_kl").values);
  const auto logit = row(measure_lens(subject, {}, text, recording).at("lens_kl").values);
  CHECK(tuned[3] == 0);
  for (int r = 0; r < 3; ++r) CHECK(tuned[r] < logit[r]);
  CHECK_THROWS_WITH(train_lens(subject, test::random_texts(1, 63, 3), training, 1, work),
                    Catch::Contains("found 63 tokens; allowed: at least 64"));
}
