// The rows of one source in the order of the run, as data.packing says: cut out of one endless stream, or packed from whole documents.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "data/packed_rows.h"
#include "data/token_stream.h"

namespace meristem {

class RowStream {
 public:
  RowStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, const std::string& name, const DataConfig& config);

  const TokenSource& source() const { return stream_.source(); }
  // Input positions of an epoch, the padding of packed rows among them.
  std::int64_t positions_per_epoch() const;
  // The slices of the row whose inputs begin at position `offset`, for append_row.
  std::vector<DocumentSlice> row(std::int64_t offset);
  // Nothing where documents are not packed.
  std::optional<PackingReport> packing() const;

 private:
  TokenStream stream_;
  std::optional<PackedRows> packed_;
  std::int64_t length_;
};

}  // namespace meristem
