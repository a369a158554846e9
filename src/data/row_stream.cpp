#include "data/row_stream.h"

namespace meristem {

RowStream::RowStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, const std::string& name, const DataConfig& config)
    : stream_(source, seed, name), length_(config.sequence_length) {
  if (config.packing == "best_fit") packed_.emplace(std::move(source), seed, name, length_);
}

std::int64_t RowStream::positions_per_epoch() const { return packed_ ? packed_->per_epoch() * length_ : source().num_tokens(); }

std::vector<DocumentSlice> RowStream::row(std::int64_t offset) {
  return packed_ ? packed_->row(offset / length_) : stream_.slices(offset, length_ + 1);
}

std::optional<PackingReport> RowStream::packing() const { return packed_ ? std::optional(packed_->report()) : std::nullopt; }

}  // namespace meristem
