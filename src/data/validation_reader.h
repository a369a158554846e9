// A source from its start, in document order, in batches: the same tokens in the same order every time. Each token but the first is a
// target once (with document_mask: but each document's first).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "config/run_config.h"
#include "data/batch.h"
#include "data/rows.h"
#include "data/shard.h"

namespace meristem {

class ValidationReader {
 public:
  // Reads at most `tokens` inputs, whole sequences of them, but at least one sequence; 0: the whole source, its last sequence padded.
  // best_fit: whole documents packed into rows, in an order that is always the same. InputError where the source has no token with a
  // target.
  ValidationReader(const SourceConfig& source, std::int64_t sequence_length, bool document_mask, std::int64_t vocab_size, double tokens,
                   bool best_fit = false);

  // Up to `sequences` further ones; fewer at the end, then nothing. HostBatch::source is 0.
  std::optional<HostBatch> next(std::int64_t sequences);
  std::int64_t num_sequences() const { return total_; }

 private:
  std::shared_ptr<const TokenSource> source_;
  std::optional<PackedRows> packed_;
  RowFormat format_;
  std::int64_t total_ = 0, done_ = 0;
  std::int64_t document_ = 0, begin_ = 0;  // where the next sequence begins

  std::int64_t sequences_in_all() const;
  void append_next(HostBatch& batch);
};

}  // namespace meristem
