#include "cli/random_batch.h"

#include "core/counter_rng.h"

namespace meristem::cli {

HostBatch random_batch(std::int64_t sequences, std::int64_t length, std::int64_t vocab) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.length = length;
  batch.source.assign(static_cast<std::size_t>(sequences), 0);
  const auto key = stream_key(0, "bench");
  const auto token = [&](std::int64_t i) {
    return static_cast<std::int32_t>(random_u64(key, static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(vocab));
  };
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    batch.inputs.push_back(token(i));
    batch.targets.push_back(token(i + 1));
    batch.positions.push_back(static_cast<std::int32_t>(i % length));
    if (i % length == 0) batch.boundaries.push_back(static_cast<std::int32_t>(i));
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * length));
  return batch;
}

}  // namespace meristem::cli
