// Who this process is among those that a launcher started.
#pragma once

#include <cstdint>
#include <string>

namespace meristem {

// What the environment says of this process: torchrun's RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, or the SLURM_* of a step
// with the last two. Alone where neither is set.
struct RankPlace {
  int rank = 0, size = 1, local_rank = 0;
  std::string master;
  std::uint16_t port = 0;
  bool agent_hosts_store = false;  // torchrun's agent does: rank 0 is a client too
  int restarts = 0;                // how often the launcher has started this job again
};
// InputError names the variable.
RankPlace rank_place();

}  // namespace meristem
