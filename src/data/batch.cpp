#include "data/batch.h"

#include <algorithm>

namespace meristem {
namespace {

struct Tokens {
  std::vector<std::int32_t> ids;              // T + 1
  std::vector<std::uint8_t> trained;          // T + 1: 1 where the token may be a target
  std::vector<std::int64_t> document_starts;  // places where a document's first token stands, in ascending order
  std::int64_t count = 0;                     // of `ids` that are tokens; padding behind
};

Tokens read_slices(const TokenSource& source, std::span<const DocumentSlice> slices, const RowFormat& format) {
  Tokens tokens;
  tokens.ids.assign(static_cast<std::size_t>(format.length + 1), 0);
  tokens.trained.assign(tokens.ids.size(), 0);
  for (const DocumentSlice& slice : slices) {
    if (slice.begin == 0) tokens.document_starts.push_back(tokens.count);
    source.read(slice.document, slice.begin, slice.count, tokens.ids.data() + tokens.count, format.vocab_size);
    source.read_mask(slice.document, slice.begin, slice.count, tokens.trained.data() + tokens.count);
    tokens.count += slice.count;
  }
  return tokens;
}

}  // namespace

void append_row(const TokenSource& source, std::span<const DocumentSlice> slices, const RowFormat& format, std::int32_t source_index,
                HostBatch& batch) {
  const Tokens tokens = read_slices(source, slices, format);
  const auto base = static_cast<std::ptrdiff_t>(batch.inputs.size());
  batch.inputs.insert(batch.inputs.end(), tokens.ids.begin(), tokens.ids.end() - 1);
  batch.targets.insert(batch.targets.end(), tokens.ids.begin() + 1, tokens.ids.end());
  for (std::int64_t i = 0; i < format.length; ++i) {
    if (tokens.trained[static_cast<std::size_t>(i + 1)] == 0) batch.targets[static_cast<std::size_t>(base + i)] = kIgnore;
  }

  std::vector<std::int64_t> starts{0};  // of documents in the row, and its end
  if (format.document_mask) {
    for (const std::int64_t start : tokens.document_starts) {
      if (start > 0) batch.targets[static_cast<std::size_t>(base + start - 1)] = kIgnore;
      if (start > 0 && start < format.length) starts.push_back(start);
    }
    if (tokens.count < format.length) starts.push_back(tokens.count);
  }
  if (batch.boundaries.empty()) batch.boundaries.push_back(0);
  starts.push_back(format.length);
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    for (std::int64_t at = starts[i]; at < starts[i + 1]; ++at) batch.positions.push_back(static_cast<std::int32_t>(at - starts[i]));
    batch.boundaries.push_back(static_cast<std::int32_t>(base + starts[i + 1]));
  }
  batch.source.push_back(source_index);
  batch.length = format.length;
  batch.real_tokens += std::min(tokens.count, format.length);
  ++batch.sequences;
}

void append_rows(const HostBatch& rows, HostBatch& batch) {
  const auto append = [](const std::vector<std::int32_t>& from, std::vector<std::int32_t>& to) {
    to.insert(to.end(), from.begin(), from.end());
  };
  const auto base = static_cast<std::int32_t>(batch.inputs.size());
  append(rows.inputs, batch.inputs);
  append(rows.targets, batch.targets);
  append(rows.positions, batch.positions);
  append(rows.source, batch.source);
  if (batch.boundaries.empty()) batch.boundaries.push_back(0);
  for (std::size_t i = 1; i < rows.boundaries.size(); ++i) batch.boundaries.push_back(base + rows.boundaries[i]);
  batch.length = rows.length;
  batch.real_tokens += rows.real_tokens;
  batch.sequences += rows.sequences;
}

HostBatch rows_of(const HostBatch& batch, std::int64_t begin, std::int64_t end) {
  const auto part = [](const std::vector<std::int32_t>& all, std::int64_t first, std::int64_t last) {
    return std::vector<std::int32_t>(all.begin() + first, all.begin() + last);
  };
  const std::int64_t first = begin * batch.length, last = end * batch.length;
  HostBatch rows;
  rows.sequences = end - begin;
  rows.length = batch.length;
  rows.inputs = part(batch.inputs, first, last);
  rows.targets = part(batch.targets, first, last);
  rows.positions = part(batch.positions, first, last);
  rows.source = part(batch.source, begin, end);
  for (const std::int32_t boundary : batch.boundaries) {
    if (boundary >= first && boundary <= last) rows.boundaries.push_back(boundary - static_cast<std::int32_t>(first));
  }
  return rows;
}

}  // namespace meristem
