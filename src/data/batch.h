// Sequences as the model is given them, in host memory, and how slices of documents become one row of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/shard.h"

namespace meristem {

inline constexpr std::int32_t kIgnore = -1;  // a target that is none

struct HostBatch {
  std::int64_t sequences = 0, length = 0;
  std::int64_t real_tokens = 0;          // inputs that are tokens; the others are padding
  std::vector<std::int32_t> inputs;      // [sequences * length] token ids
  std::vector<std::int32_t> targets;     // [sequences * length] the next token, or kIgnore
  std::vector<std::int32_t> positions;   // [sequences * length] restarting at each document with document_mask, else 0 .. length-1
  std::vector<std::int32_t> boundaries;  // where documents (without document_mask: rows) begin in the flattened batch, and its end
  std::vector<std::int32_t> source;      // [sequences] index of the source in config order
};

struct RowFormat {
  std::int64_t length = 0;  // T
  bool document_mask = true;
  std::int64_t vocab_size = 0;
};

// `slices` hold the T inputs and one token more, the last target; or whole documents of at most T tokens, and less. With document_mask
// positions restart and attention begins anew at each document, and a document's first token is no target; nor is a token that the source's
// mask leaves out. Where the slices hold fewer tokens, the rest of the row is padding: id 0, no target, as a document of its own. Appends
// one row to `batch`, whose boundaries stay closed: see HostBatch. Errors as TokenSource::read.
void append_row(const TokenSource& source, std::span<const DocumentSlice> slices, const RowFormat& format, std::int32_t source_index,
                HostBatch& batch);

// Appends the rows of `rows`, which has the same length.
void append_rows(const HostBatch& rows, HostBatch& batch);

// Rows [begin, end) by themselves. How many of their tokens are real is not known.
HostBatch rows_of(const HostBatch& batch, std::int64_t begin, std::int64_t end);

}  // namespace meristem
