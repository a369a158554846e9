#include "checkpoint/train_state.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/json.h"

namespace meristem {
namespace {

using Json = nlohmann::ordered_json;

Json growth_json(const std::vector<GrowthEvent>& events) {
  Json out = Json::array();
  for (const GrowthEvent& event : events) {
    out.push_back({{"step", event.step},
                   {"from_blocks", event.from_blocks},
                   {"to_blocks", event.to_blocks},
                   {"op", event.op},
                   {"source_of", event.source_of}});
  }
  return out;
}

GrowthEvent read_growth(const JsonCursor& json) {
  json.allow_only({"step", "from_blocks", "to_blocks", "op", "source_of"});
  GrowthEvent event;
  event.step = json.at("step").integer(0);
  event.from_blocks = json.at("from_blocks").integer(0);
  event.to_blocks = json.at("to_blocks").integer(0);
  event.op = json.at("op").text();
  const JsonCursor source = json.at("source_of");
  for (const JsonCursor& item : source.items()) event.source_of.push_back(item.integer(0, event.from_blocks - 1));
  if (static_cast<std::int64_t>(event.source_of.size()) != event.to_blocks) {
    source.fail(fmt::format("found {} entries for {} blocks", event.source_of.size(), event.to_blocks));
  }
  return event;
}

EarlyStopState read_early_stop(const JsonCursor& json, std::int64_t step) {
  json.allow_only({"best_loss", "best_step", "without_improvement"});
  return {json.at("best_loss").number(), json.at("best_step").integer(0, step), json.at("without_improvement").integer(0, step)};
}

TokenCounts read_counts(const JsonCursor& json) {
  json.allow_only({"real_tokens", "trained_tokens", "flops"});
  return {json.at("real_tokens").integer(0), json.at("trained_tokens").integer(0), json.at("flops").number()};
}

void require_finite(const std::vector<double>& values, const char* key) {
  for (const double value : values) {
    if (!std::isfinite(value)) throw InputError(fmt::format("state.json: {}: {} cannot be stored", key, value));
  }
}

}  // namespace

int read_format_version(const JsonCursor& json, const std::string& origin) {
  const std::int64_t version = json.at("format_version").integer(1, std::numeric_limits<int>::max());
  if (version > kCheckpointFormatVersion) {
    throw InputError(fmt::format("{}: format_version: found {}, this program reads up to {}: use a newer meristem", origin, version,
                                 kCheckpointFormatVersion));
  }
  return static_cast<int>(version);
}

std::string train_state_json(const TrainState& state) {
  require_finite(state.recent_losses, "recent_losses");
  require_finite(state.recent_grad_norms, "recent_grad_norms");
  Json json;
  json["format_version"] = kCheckpointFormatVersion;
  json["step"] = state.step;
  json["tokens"] = state.tokens;
  if (state.counts) {
    require_finite({state.counts->flops}, "counts.flops");
    json["counts"] = {
        {"real_tokens", state.counts->real_tokens}, {"trained_tokens", state.counts->trained_tokens}, {"flops", state.counts->flops}};
  }
  json["rng"] = {{"kind", "counter"}, {"seed", state.seed}};
  json["depth_plan"] = state.depth_plan;
  json["blocks"] = state.blocks;
  json["growth_history"] = growth_json(state.growth_history);
  json["loader"] = state.loader;
  json["config_hash"] = state.config_hash;
  json["config_yaml"] = state.config_yaml;
  json["recent_losses"] = state.recent_losses;
  json["recent_grad_norms"] = state.recent_grad_norms;
  if (state.early_stop) {
    require_finite({state.early_stop->best_loss}, "early_stop.best_loss");
    json["early_stop"] = {{"best_loss", state.early_stop->best_loss},
                          {"best_step", state.early_stop->best_step},
                          {"without_improvement", state.early_stop->without_improvement}};
  }
  json["environment"] = state.environment;
  try {
    return json.dump(1) + "\n";
  } catch (const Json::type_error&) {
    throw InputError("state.json: a string of the training state is not valid UTF-8");
  }
}

TrainState parse_train_state(std::string_view text, const std::string& origin) {
  const nlohmann::json document = parse_json_strict(text, origin);
  const JsonCursor json(document, origin);
  TrainState state;
  state.format_version = read_format_version(json, origin);
  json.allow_only({"format_version", "step", "tokens", "counts", "rng", "depth_plan", "blocks", "growth_history", "loader", "config_hash",
                   "config_yaml", "recent_losses", "recent_grad_norms", "early_stop", "environment"});
  state.step = json.at("step").integer(0);
  state.tokens = json.at("tokens").integer(0);
  state.counts = json.has("counts") ? std::optional(read_counts(json.at("counts"))) : std::nullopt;
  const JsonCursor rng = json.at("rng");
  rng.allow_only({"kind", "seed"});
  if (rng.at("kind").text() != "counter") rng.at("kind").fail("the only kind is 'counter'");
  state.seed = rng.at("seed").integer();
  state.depth_plan = json.at("depth_plan").text();
  state.blocks = json.at("blocks").integer(0);
  for (const JsonCursor& event : json.at("growth_history").items()) state.growth_history.push_back(read_growth(event));
  if (!state.growth_history.empty() && state.growth_history.back().to_blocks != state.blocks) {
    json.at("blocks").fail(
        fmt::format("found {}, but the growth history ends with {}", state.blocks, state.growth_history.back().to_blocks));
  }
  state.loader = json.at("loader").text();
  state.config_hash = json.at("config_hash").text();
  state.config_yaml = json.at("config_yaml").text();
  state.recent_losses = json.at("recent_losses").numbers();
  state.recent_grad_norms = json.at("recent_grad_norms").numbers();
  if (json.has("early_stop")) state.early_stop = read_early_stop(json.at("early_stop"), state.step);
  for (const auto& [key, value] : json.at("environment").members()) state.environment.emplace(key, value.text());
  return state;
}

}  // namespace meristem
