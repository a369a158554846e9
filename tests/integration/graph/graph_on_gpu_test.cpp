// Captured graphs on a GPU against the plain step there, over changes of plan, logged steps and a growth.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "ops/paths.h"
#include "step/update.h"
#include "support/catch.h"
#include "unit/step/small_run.h"

using namespace meristem;

namespace {

RunConfig small_gpu_run(const std::string& graph, bool documents = false) {
  RunConfig config = test::small_run("bf16");
  config.data.document_mask = documents;
  config.kernels.graph = graph;
  config.kernels.attention = documents ? "library" : "auto";  // LibTorch's flash attention, with the documents' starts on the device
  return config;
}

// Rows as they come, or with a document that ends inside the first.
HostBatch batch_of(const RunConfig& config, std::int64_t from, std::int64_t count) {
  HostBatch batch = test::rows(from, count);
  if (config.data.document_mask) batch.boundaries.insert(batch.boundaries.begin() + 1, static_cast<std::int32_t>(3 + from % 9));
  return batch;
}

struct Trace {
  std::vector<UpdateResult> results;
  at::Tensor master;
};

// Twelve updates of two micro-batches, a growth after the eighth; results are asked for every fourth update.
Trace train(const RunConfig& config) {
  const ModelRegistry registry = builtin_registry();
  const at::Device device = pick_device();
  auto live = std::make_unique<LiveModel>(config, Timeline(config), registry, device, 2, true);
  SpikeDetector spikes;
  const auto make_updater = [&] {
    return std::make_unique<Updater>(*live, config, spikes, graph_device_of(config, device, live->paths()));
  };
  auto updater = make_updater();
  REQUIRE(updater->uses_graphs() == (config.kernels.graph == "on"));
  std::int64_t at = 0;
  Trace trace;
  const auto keep = [&](std::vector<UpdateResult> results) { trace.results.insert(trace.results.end(), results.begin(), results.end()); };
  for (std::int64_t n = 1; n <= 12; ++n) {
    if (n == 9) {
      keep(updater->finish());
      updater.reset();
      live = live->grown({0, 0, 1});
      updater = make_updater();
    }
    const std::int64_t blocks = live->blocks();
    const DepthPlan plan = n % 3 == 0 ? DepthPlan::parse("0, 1, 1") : DepthPlan::plain(blocks);
    updater->queue([&](std::int64_t count) { return batch_of(config, (at += count) - count, count); },
                   {n, n >= 9 ? DepthPlan::plain(blocks) : plan, 1e-2, 2, 4, n % 4 == 0});
    if (n % 4 == 0) keep(updater->finish());
  }
  trace.master = live->parameters().master().cpu();
  return trace;
}

}  // namespace

TEST_CASE("graphs on a GPU compute what plain steps there compute", "[gpu]") {
  if (!pick_device().is_cuda()) {
    std::puts("skipped: no GPU");
    std::exit(4);  // what CTest shows as skipped
  }
  const bool documents = GENERATE(false, true);
  INFO((documents ? "documents" : "whole rows"));
  const Trace plain = train(small_gpu_run("off", documents)), again = train(small_gpu_run("off", documents)),
              graphs = train(small_gpu_run("on", documents));
  REQUIRE((plain.results.size() == 12 && graphs.results.size() == 12));
  // Kernels that add atomically may differ from run to run, by so much.
  double noise = 1e-6;
  for (std::size_t i = 0; i < 12; ++i) noise = std::max(noise, std::abs(plain.results[i].loss - again.results[i].loss));
  for (std::size_t i = 0; i < 12; ++i) {
    INFO("update " << i + 1);
    CHECK(std::abs(plain.results[i].loss - graphs.results[i].loss) <= 3 * noise);
    CHECK(plain.results[i].targets_by_source == graphs.results[i].targets_by_source);
    CHECK(plain.results[i].stream_rms.size() == graphs.results[i].stream_rms.size());
  }
  CHECK(graphs.results.back().loss < graphs.results.front().loss);
}
