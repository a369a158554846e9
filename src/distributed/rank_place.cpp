#include "distributed/rank_place.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

const char* set_variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? nullptr : text;
}

int number(const char* name, int least, int most) {
  const char* text = set_variable(name);
  if (text == nullptr) throw InputError(fmt::format("{}: is not set in the environment; a launcher such as torchrun sets it", name));
  int value = 0;
  const std::string_view view(text);
  const auto parsed = std::from_chars(view.data(), view.data() + view.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != view.data() + view.size() || value < least || value > most) {
    throw InputError(
        fmt::format("{}: found {} in the environment; allowed: a whole number from {} to {}", name, in_quotes(text), least, most));
  }
  return value;
}

int restarts_of_environment() {
  for (const char* name : {"TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"}) {
    if (set_variable(name) != nullptr) return number(name, 0, 1 << 30);
  }
  return 0;
}

}  // namespace

RankPlace rank_place() {
  constexpr int kMostRanks = 1 << 20;
  RankPlace place;
  place.restarts = restarts_of_environment();
  // A batch script and an interactive shell of Slurm have SLURM_PROCID too; only a step that srun started has the number of its tasks.
  const bool torchrun = set_variable("RANK") != nullptr,
             slurm = !torchrun && set_variable("SLURM_PROCID") != nullptr && set_variable("SLURM_STEP_NUM_TASKS") != nullptr;
  if (!torchrun && !slurm) {
    if (set_variable("WORLD_SIZE") != nullptr && number("WORLD_SIZE", 1, kMostRanks) > 1) number("RANK", 0, kMostRanks);
    return place;
  }
  place.size = number(torchrun ? "WORLD_SIZE" : "SLURM_STEP_NUM_TASKS", 1, kMostRanks);
  place.rank = number(torchrun ? "RANK" : "SLURM_PROCID", 0, place.size - 1);
  if (place.size == 1) return place;
  const char* local = torchrun ? "LOCAL_RANK" : "SLURM_LOCALID";
  place.local_rank = set_variable(local) == nullptr ? 0 : number(local, 0, place.size - 1);
  const char* master = set_variable("MASTER_ADDR");
  if (master == nullptr) throw InputError("MASTER_ADDR: is not set in the environment; it names the machine of rank 0");
  place.master = master;
  place.port = static_cast<std::uint16_t>(number("MASTER_PORT", 1, 65535));
  const char* agent = set_variable("TORCHELASTIC_USE_AGENT_STORE");
  place.agent_hosts_store = agent != nullptr && std::string_view(agent) == "True";
  return place;
}

}  // namespace meristem
