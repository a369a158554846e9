#include "data/loader_position.h"

#include <set>

#include <nlohmann/json.hpp>

#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

// Leaves room for sums and products with small numbers.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 60;

std::string fresh_name(const JsonCursor& json, std::set<std::string>& seen) {
  std::string name = json.at("name").text();
  if (!seen.insert(name).second) json.at("name").fail("the source " + in_quotes(name) + " stands here twice");
  return name;
}

}  // namespace

std::string LoaderPosition::to_json() const {
  nlohmann::ordered_json json;
  json["sequence"] = sequence;
  json["step"] = step;
  json["in_step"] = in_step;
  json["phase_step"] = phase_step;
  json["sources"] = nlohmann::ordered_json::array();
  for (const Source& source : sources) json["sources"].push_back({{"name", source.name}, {"tokens", source.tokens}});
  json["drawn"] = nlohmann::ordered_json::array();
  for (const Drawn& one : drawn) {
    json["drawn"].push_back({{"name", one.name}, {"weight", one.weight}, {"sequences", one.sequences}});
    if (one.lag) json["drawn"].back()["lag"] = *one.lag;
  }
  return json.dump();
}

LoaderPosition LoaderPosition::from_json(const std::string& text) {
  const std::string origin = "loader position";
  const nlohmann::json document = parse_json_strict(text, origin);
  const JsonCursor json(document, origin);
  json.allow_only({"sequence", "step", "in_step", "phase_step", "sources", "drawn"});
  LoaderPosition position;
  position.sequence = json.at("sequence").integer(0, kMostTokens);
  position.step = json.at("step").integer(0, kMostTokens);
  position.in_step = json.at("in_step").integer(0, position.sequence);
  position.phase_step = json.at("phase_step").integer(0, position.step);
  std::set<std::string> seen;
  for (const JsonCursor& item : json.at("sources").items()) {
    item.allow_only({"name", "tokens"});
    position.sources.push_back({fresh_name(item, seen), item.at("tokens").integer(0, kMostTokens)});
  }
  seen.clear();
  for (const JsonCursor& item : json.at("drawn").items()) {
    item.allow_only({"name", "weight", "sequences", "lag"});
    position.drawn.push_back(
        {fresh_name(item, seen), item.at("weight").integer(0, kMostTokens), item.at("sequences").integer(0, position.sequence)});
    if (item.has("lag")) position.drawn.back().lag = item.at("lag").integer(-kMostTokens, kMostTokens);
  }
  return position;
}

}  // namespace meristem
