// `plan --gpus`: what a run takes on a cluster that is not here.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "core/text.h"
#include "metrics/progress.h"
#include "metrics/throughput.h"
#include "ops/paths.h"
#include "run/scale.h"

namespace meristem::cli {
namespace {

constexpr std::int64_t kLargestInTable = 1024;
constexpr double kBytesPerGbit = 1e9 / 8;
constexpr double kTcpPayload = 0.955;  // of an Ethernet frame; Gloo's sockets

bool fits(const MemoryEstimate& memory, const Cluster& cluster) {
  return cluster.memory_bytes == 0 || memory.total() <= cluster.memory_bytes;
}

double positive(const char* option, double value) {
  if (std::isfinite(value) && value > 0) return value;
  throw InputError(fmt::format("{}: found {}; allowed: more than 0", option, number_text(value)));
}

constexpr const char* kUsualGpu = "h100";

// "H100", as drivers name it among other words.
std::string upper(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return word;
}

Cluster cluster_of(const ForecastOptions& options, const RunConfig& config) {
  const std::string word = options.gpu.value_or(kUsualGpu);
  const auto gpu = choice_of<Gpu>(word);
  if (!gpu) throw InputError(fmt::format("--gpu: found {}; allowed: {}", printable(word), fmt::join(all_words<Gpu>(), ", ")));
  Cluster cluster = meristem::cluster_of(*gpu);
  const bool cpu = gpu == Gpu::kCpu;
  if (!cpu) cluster.peak_flops = peak_bf16_flops(upper(word)).value();
  cluster.links.network = positive("--gbps", *options.gbps) * kBytesPerGbit * (cpu ? kTcpPayload : 1);
  if (options.node_size) {
    if (*options.node_size < 1) throw InputError(fmt::format("--node-size: found {}; allowed: 1 and more", *options.node_size));
    cluster.links.node_size = *options.node_size;
  }
  if (options.node_gbps) {
    cluster.links.node_all_reduce = cluster.links.node_shards = positive("--node-gbps", *options.node_gbps) * kBytesPerGbit;
  } else if (cpu && cluster.links.node_size > 1) {
    throw InputError("--node-size: with --gpu cpu, more than 1 needs --node-gbps");
  }
  if (options.dollars_per_hour) cluster.dollars_per_hour = positive("--dollars-per-hour", *options.dollars_per_hour);
  if (options.flops_per_second) {
    cluster.measured_flops = positive("--flops-per-second", *options.flops_per_second);
  } else if (cpu || config.precision.compute == Precision::kFp32) {
    throw InputError(fmt::format("--flops-per-second: is needed with {}; the peaks that are known are those of GPUs in bf16",
                                 cpu ? "--gpu cpu" : "precision.compute: fp32"));
  }
  return cluster;
}

// Powers of two that can share the batch, and the number asked for.
std::vector<std::int64_t> table_sizes(const RunConfig& config, std::int64_t gpus) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t n = 1; n <= kLargestInTable; n *= 2) {
    if (n == gpus || divides_batch(config, n)) sizes.push_back(n);
  }
  const auto place = std::lower_bound(sizes.begin(), sizes.end(), gpus);
  if (place == sizes.end() || *place != gpus) sizes.insert(place, gpus);
  return sizes;
}

// Whole where that is enough.
std::string figure_text(double value) { return value >= 100 ? grouped_digits(std::llround(value)) : fmt::format("{:.3g}", value); }

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

nlohmann::ordered_json to_json(const UpdateForecast& update) {
  return {{"seconds", update.step()},
          {"compute_seconds", update.compute},
          {"optimizer_seconds", update.optimizer},
          {"exposed_seconds", update.exposed},
          {"communication_seconds", update.communication}};
}

nlohmann::ordered_json to_json(const RunForecast& forecast, const Cluster& cluster) {
  const MemoryEstimate& memory = forecast.memory;
  nlohmann::ordered_json json = {{"gpus", forecast.ranks},
                                 {"sequences", forecast.sequences},
                                 {"micro_sequences", forecast.micro_sequences},
                                 {"buckets", forecast.buckets},
                                 {"update", to_json(forecast.update)},
                                 {"memory",
                                  {{"total", memory.total()},
                                   {"weights", memory.weights},
                                   {"optimizer", memory.optimizer},
                                   {"gradients", memory.gradients},
                                   {"activations", memory.activations},
                                   {"growth_peak", memory.growth_peak},
                                   {"fits", fits(memory, cluster)}}},
                                 {"hours", forecast.hours},
                                 {"gpu_hours", forecast.gpu_hours()},
                                 {"efficiency", forecast.efficiency}};
  if (cluster.dollars_per_hour > 0) json["dollars"] = forecast.gpu_hours() * cluster.dollars_per_hour;
  return json;
}

void print_assumptions(const Cluster& cluster) {
  const Links& links = cluster.links;
  fmt::print("  assumed          ");
  if (cluster.measured_flops > 0) {
    fmt::print("{:.4g} FLOP/s of one rank, its updates included, as measured\n", cluster.measured_flops);
  } else {
    fmt::print("{:.0f} % of the peak of {:.0f} TFLOP/s (bf16), {:.0f} % of {:.2f} TB/s of memory; --flops-per-second F: as measured\n",
               100 * kAssumedUse, cluster.peak_flops / 1e12, 100 * kMemoryUse, cluster.memory_rate / 1e12);
  }
  if (links.node_size > 1) {
    fmt::print("                   {} GPUs a machine, {:.0f} GB/s among them (all-reduce; {:.0f} reduce-scatter, all-gather); ",
               links.node_size, links.node_all_reduce / 1e9, links.node_shards / 1e9);
  } else {
    fmt::print("                   one rank a machine; ");
  }
  fmt::print("{:.4g} Gbit/s a rank between machines\n", links.network / kBytesPerGbit);
}

void print_one(const RunForecast& forecast, const Cluster& cluster, const RunConfig& config, const Timeline& timeline) {
  const UpdateForecast& update = forecast.update;
  const MemoryEstimate& memory = forecast.memory;
  fmt::print("  a rank           {} sequences an update, {} at a time; {}{}: weights {}, optimizer {}, gradients {}, activations {}{}\n",
             forecast.sequences, forecast.micro_sequences, bytes_text(memory.total()),
             cluster.memory_bytes > 0 ? " of " + bytes_text(cluster.memory_bytes) : "", bytes_text(memory.weights),
             bytes_text(memory.optimizer), bytes_text(memory.gradients), bytes_text(memory.activations),
             fits(memory, cluster) ? "" : "; DOES NOT FIT");
  fmt::print(
      "  an update        {:.4g} s at full depth: forward and backward {:.4g} s, optimizer {:.3g} s, exposed communication {:.3g} s "
      "({:.1f} %)\n",
      update.step(), update.compute, update.optimizer, update.exposed, percent(update.exposed, update.step()));
  fmt::print("                   links are busy for {:.3g} s with {} buckets\n", update.communication, forecast.buckets);
  fmt::print("  whole run        {}, {} GPU-hours", duration_text(3600 * forecast.hours), figure_text(forecast.gpu_hours()));
  if (cluster.dollars_per_hour > 0) fmt::print(", ${}", figure_text(forecast.gpu_hours() * cluster.dollars_per_hour));
  fmt::print("; efficiency {:.1f} % of one GPU's\n", 100 * forecast.efficiency);
  if (forecast.spans.size() < 2) return;
  fmt::print("\n  {:>22}  {:>6}  {:>10}  {:>10}  plan\n", "updates", "blocks", "s/update", "exposed");
  for (std::size_t i = 0; i < forecast.spans.size(); ++i) {
    const Span& span = timeline.spans()[i];
    fmt::print("  {:>22}  {:>6}  {:>10.4g}  {:>8.1f} %  {}\n", fmt::format("{} - {}", span.from_step + 1, span.until_step),
               timeline.stages()[span.stage].blocks, forecast.spans[i].step(), percent(forecast.spans[i].exposed, forecast.spans[i].step()),
               config.model.plan_text(span.plan));
  }
}

void print_table(const std::vector<RunForecast>& table, const Cluster& cluster) {
  const bool dollars = cluster.dollars_per_hour > 0;
  fmt::print("\n  {:>6}  {:>9}  {:>6}  {:>10}  {:>9}  {:>10}  {:>11}  {:>14}  {:>10}  {}\n", "GPUs", "sequences", "micro", "s/update",
             "exposed", "efficiency", "memory", "time", "GPU-hours", dollars ? "  dollars" : "");
  for (const RunForecast& row : table) {
    const UpdateForecast& update = row.update;
    fmt::print("  {:>6}  {:>9}  {:>6}  {:>10.4g}  {:>7.1f} %  {:>8.1f} %  {:>11}  {:>14}  {:>10}  {}{}\n", row.ranks, row.sequences,
               row.micro_sequences, update.step(), percent(update.exposed, update.step()), 100 * row.efficiency,
               bytes_text(row.memory.total()), duration_text(3600 * row.hours), figure_text(row.gpu_hours()),
               dollars ? fmt::format("{:>9}", figure_text(row.gpu_hours() * cluster.dollars_per_hour)) : "",
               fits(row.memory, cluster) ? "" : "  does not fit");
  }
}

}  // namespace

void add_forecast_options(CLI::App& command, ForecastOptions& options) {
  command.add_option("--gpus", options.gpus, "Forecast the run on this many GPUs, one rank each; with --gbps");
  command.add_option("--gbps", options.gbps, "Gbit/s of one GPU between machines");
  command.add_option("--gpu", options.gpu, "h100 | h200 | a100 | cpu. Default: h100");
  command.add_option("--flops-per-second", options.flops_per_second,
                     "As one rank was measured (metrics.jsonl: flops_per_second). Default: an assumed share of the GPU's peak");
  command.add_option("--node-size", options.node_size, "GPUs of a machine. Default: 8");
  command.add_option("--node-gbps", options.node_gbps, "Gbit/s of one GPU inside a machine. Default: what NVLink reaches");
  command.add_option("--dollars-per-hour", options.dollars_per_hour, "Price of a GPU");
}

void check_forecast_options(const ForecastOptions& options) {
  const std::pair<const char*, bool> others[] = {{"--gbps", options.gbps.has_value()},
                                                 {"--gpu", options.gpu.has_value()},
                                                 {"--flops-per-second", options.flops_per_second.has_value()},
                                                 {"--node-size", options.node_size.has_value()},
                                                 {"--node-gbps", options.node_gbps.has_value()},
                                                 {"--dollars-per-hour", options.dollars_per_hour.has_value()}};
  for (const auto& [name, given] : others) {
    if (given && !options.gpus) throw InputError(fmt::format("{}: has no effect without --gpus", name));
  }
  if (!options.gpus) return;
  if (*options.gpus < 1 || *options.gpus > kMostRanks) {
    throw InputError(fmt::format("--gpus: found {}; allowed: 1 to {}", *options.gpus, kMostRanks));
  }
  if (!options.gbps) throw InputError("--gpus: needs --gbps, the Gbit/s of one GPU between machines");
}

Forecast forecast_of(RunConfig config, const ForecastOptions& options) {
  const Cluster cluster = cluster_of(options, config);
  // Of the GPUs that were named, not of this machine: `auto` takes our own kernel where such a GPU has run it.
  if (cluster.gpu != Gpu::kCpu && config.kernels.attention == "auto") {
    const AttentionConfig& attention = config.model.attention;
    const ops::KernelUse use{"attention", config.precision.compute == Precision::kBf16 ? at::kBFloat16 : at::kFloat,
                             config.data.document_mask ? "packed"
                             : attention.window > 0    ? "window"
                                                       : "causal",
                             attention.head_dim};
    config.kernels.attention = ops::is_proven(ops::proofs(), use, upper(options.gpu.value_or(kUsualGpu))) ? "fused" : "library";
  }
  const Timeline timeline(config);
  const ModelRegistry registry = builtin_registry();
  RunScale scale(config, timeline, registry, cluster);
  Forecast forecast{cluster, timeline, scale.on(*options.gpus), {}};
  for (const std::int64_t gpus : table_sizes(config, *options.gpus)) forecast.table.push_back(scale.on(gpus));
  return forecast;
}

nlohmann::ordered_json to_json(const RunConfig& config, const Forecast& forecast) {
  const Cluster& cluster = forecast.cluster;
  const Links& links = cluster.links;
  nlohmann::ordered_json json = to_json(forecast.asked, cluster);
  json["spans"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < forecast.asked.spans.size(); ++i) {
    const Span& span = forecast.timeline.spans()[i];
    json["spans"].push_back({{"from_step", span.from_step},
                             {"until_step", span.until_step},
                             {"blocks", forecast.timeline.stages()[span.stage].blocks},
                             {"plan", config.model.plan_text(span.plan)},
                             {"update", to_json(forecast.asked.spans[i])}});
  }
  json["assumed"] = {{"gpu", word_of(cluster.gpu)},
                     {"flops_per_second", cluster.measured_flops > 0 ? cluster.measured_flops : cluster.peak_flops * kAssumedUse},
                     {"measured", cluster.measured_flops > 0},
                     {"memory_bytes", cluster.memory_bytes},
                     {"node_size", links.node_size},
                     {"node_all_reduce_bytes_per_second", links.node_all_reduce},
                     {"node_shards_bytes_per_second", links.node_shards},
                     {"network_bytes_per_second", links.network}};
  json["table"] = nlohmann::ordered_json::array();
  for (const RunForecast& row : forecast.table) json["table"].push_back(to_json(row, cluster));
  return json;
}

void print(const RunConfig& config, const Forecast& forecast) {
  fmt::print("\non {} GPUs ({})\n", forecast.asked.ranks, word_of(forecast.cluster.gpu));
  print_assumptions(forecast.cluster);
  print_one(forecast.asked, forecast.cluster, config, forecast.timeline);
  print_table(forecast.table, forecast.cluster);
}

}  // namespace meristem::cli
