#include "data/validation_reader.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {

ValidationReader::ValidationReader(const SourceConfig& source, std::int64_t sequence_length, bool document_mask, std::int64_t vocab_size,
                                   double tokens, bool best_fit)
    : source_(std::make_shared<const TokenSource>(TokenSource::open(source.path))), format_{sequence_length, document_mask, vocab_size} {
  if (source_->num_tokens() < 2) throw InputError(fmt::format("{}: one token is nothing to validate on", source_->bin_path().string()));
  if (best_fit) packed_.emplace(source_, 0, "validation", sequence_length);
  total_ = sequences_in_all();
  const double budget = tokens / static_cast<double>(format_.length);
  if (tokens > 0 && budget < static_cast<double>(total_)) total_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(budget));
}

std::int64_t ValidationReader::sequences_in_all() const {
  return packed_ ? packed_->per_epoch() : (source_->num_tokens() - 1 + format_.length - 1) / format_.length;
}

std::optional<HostBatch> ValidationReader::next(std::int64_t sequences) {
  const std::int64_t count = std::min(sequences, total_ - done_);
  if (count <= 0) return std::nullopt;
  HostBatch batch;
  for (std::int64_t i = 0; i < count; ++i, ++done_) append_next(batch);
  return batch;
}

void ValidationReader::append_next(HostBatch& batch) {
  if (packed_) {
    append_row(*source_, packed_->row(done_), format_, 0, batch);
    return;
  }
  std::vector<DocumentSlice> slices;
  std::int64_t missing = format_.length + 1;
  while (missing > 0 && document_ < source_->num_documents()) {
    const std::int64_t count = std::min(missing, source_->document_length(document_) - begin_);
    if (count > 0) slices.push_back({document_, begin_, count});
    missing -= count;
    begin_ += count;
    if (missing == 0) break;
    ++document_;
    begin_ = 0;
  }
  append_row(*source_, slices, format_, 0, batch);
  if (missing == 0) --begin_;  // the last target is the next sequence's first input
}

}  // namespace meristem
