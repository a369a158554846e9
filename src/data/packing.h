// Slices of documents -> one row of a batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/token_source.h"
#include "data/token_stream.h"

namespace meristem {

struct RowFormat {
  std::int64_t length = 0;  // T
  bool document_mask = true;
  std::int64_t vocab_size = 0;
};

// `slices` hold the T inputs and one token more, the last target; or whole documents of at most T tokens, and less. With document_mask
// positions restart and a segment begins at each document, and a document's first token is no target; nor is a token that the source's mask
// leaves out. Where the slices hold fewer tokens, the rest of the row is padding: id 0, no target, a segment of its own. Appends one row to
// `batch`, whose boundaries stay closed: see HostBatch. Errors as TokenSource::read.
void append_row(const TokenSource& source, std::span<const DocumentSlice> slices, const RowFormat& format, std::int32_t source_index,
                HostBatch& batch);

// Appends the rows of `rows`, which has the same length.
void append_rows(const HostBatch& rows, HostBatch& batch);

}  // namespace meristem
