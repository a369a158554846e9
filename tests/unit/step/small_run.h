// A run of two small blocks, and batches for it.
#pragma once

#include "config/run_config.h"
#include "core/counter_rng.h"
#include "data/batch.h"

namespace meristem::test {

inline RunConfig small_run(const std::string& compute) {
  RunConfig config;
  config.model.vocab_size = 64;
  config.model.width = 32;
  config.model.blocks = 2;
  config.model.depth_plan = "0-1";
  config.model.attention.heads = 2;
  config.model.attention.kv_heads = 2;
  config.model.attention.head_dim = 16;
  config.model.feed_forward.inner = 64;
  config.data.sequence_length = 16;
  for (const char* name : {"a", "b"}) config.data.sources.emplace_back(name, SourceConfig{});
  config.precision.compute = choice_of<Precision>(compute).value();
  config.precision.residual = config.precision.compute;
  return config;
}

// `sequences` rows that depend on `from`, two sources by turns; the last target of each row is none.
inline HostBatch rows(std::int64_t from, std::int64_t sequences) {
  HostBatch batch;
  batch.sequences = sequences;
  batch.real_tokens = 10 * sequences + from;  // as if the rest were padding
  batch.length = 16;
  const auto key = stream_key(9, "rows");
  for (std::int64_t row = from; row < from + sequences; ++row) {
    batch.boundaries.push_back(static_cast<std::int32_t>((row - from) * 16));
    batch.source.push_back(static_cast<std::int32_t>(row % 2));
    for (std::int64_t t = 0; t < 16; ++t) {
      const auto token = [&](std::int64_t at) {
        return static_cast<std::int32_t>(random_u64(key, static_cast<std::uint64_t>(row * 17 + at)) % 64);
      };
      batch.inputs.push_back(token(t));
      batch.targets.push_back(t == 15 ? -1 : token(t + 1));
      batch.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(sequences * 16));
  return batch;
}

}  // namespace meristem::test
