// Sequences as the model is given them, in host memory.
#pragma once

#include <cstdint>
#include <vector>

namespace meristem {

inline constexpr std::int32_t kIgnore = -1;  // a target that is none

struct HostBatch {
  std::int64_t sequences = 0, length = 0;
  std::vector<std::int32_t> inputs;      // [sequences * length] token ids
  std::vector<std::int32_t> targets;     // [sequences * length] the next token, or kIgnore
  std::vector<std::int32_t> positions;   // [sequences * length] restarting at each document with document_mask, else 0 .. length-1
  std::vector<std::int32_t> boundaries;  // starts of the attention segments in the flattened batch, from 0 to sequences * length
  std::vector<std::int32_t> source;      // [sequences] index of the source in config order
};

}  // namespace meristem
