// The rows of one source in the order of the run, as data.packing says: cut out of one endless stream of documents (concat), or packed from
// whole documents (best_fit).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/counter_rng.h"
#include "data/shard.h"

namespace meristem {

// All documents of a source in a new order every epoch, one epoch after another, without an end.
class TokenStream {
 public:
  // The order of epoch e is a function of (seed, name, e) and the number of documents.
  TokenStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, std::string name);

  const TokenSource& source() const { return *source_; }
  // The slices that make up tokens [offset, offset + count) of the stream, in order. Cheap while offsets go up: the order of an epoch is
  // walked as far as it is read. Where reading begins in the midst of one, the documents before are walked once, 0.3 µs each.
  std::vector<DocumentSlice> slices(std::int64_t offset, std::int64_t count);

 private:
  // Every kStride-th document's first token is kept; the ones between are found by walking. Half a byte a document.
  static constexpr std::int64_t kStride = 16;

  std::shared_ptr<const TokenSource> source_;
  std::uint64_t seed_;
  std::string name_;
  std::int64_t epoch_ = -1;
  Permutation order_;
  std::vector<std::int64_t> marks_;
  std::int64_t walked_ = 0, walked_tokens_ = 0;  // documents of the epoch's order that the marks cover, and their tokens

  void enter_epoch(std::int64_t epoch);
  // Marks the order up to the document that holds `token` of the epoch.
  void walk_to(std::int64_t token);
  // Appends the slices of tokens [begin, end) of the entered epoch.
  void append_slices(std::int64_t begin, std::int64_t end, std::vector<DocumentSlice>& slices);
};

using PackedDocuments = std::vector<std::vector<std::int64_t>>;  // the documents of each row, in the order in which they stand in it

// Best-fit-decreasing packing (2404.10830): documents into rows of a fixed capacity, each where it leaves the least room. Packs documents
// 0 .. count-1 of lengths length(d), cut to `capacity`, the longest first; empty ones are left out. Among equal lengths
// the one of the lowest place goes first: place p holds document at(p). The lengths in each row do not depend on at(), so neither does the
// number of rows. Time count * log(capacity).
PackedDocuments best_fit_decreasing(std::int64_t count, std::int64_t capacity, const std::function<std::int64_t(std::int64_t)>& length,
                                    const std::function<std::int64_t(std::int64_t)>& at);

// What packing did to a source.
struct PackingReport {
  std::string name;
  std::int64_t documents = 0, rows = 0;                             // of an epoch
  std::int64_t tokens = 0;                                          // in the rows; the rest is padding
  std::int64_t cut_documents = 0, cut_tokens = 0, cut_trained = 0;  // longer than a row: what is behind its end
  std::vector<std::int64_t> cut;                                    // the first few of them
};

// The report as lines for people: sequences, how full they are, and updates of an epoch; a warning where documents are cut.
std::vector<std::string> packing_notes(const PackingReport& report, std::int64_t length, std::int64_t sequences_per_step);

// The rows under best_fit, epoch after epoch: whole documents, none of them split over two rows.
class PackedRows {
 public:
  // The packing of epoch e is a function of (seed, name, e), the documents' lengths and `length`. Every epoch has the same number of rows.
  PackedRows(std::shared_ptr<const TokenSource> source, std::uint64_t seed, std::string name, std::int64_t length);

  std::int64_t per_epoch() const { return rows_per_epoch_; }
  // The documents of row k, counted over all epochs. Cheap while rows stay in one epoch.
  std::vector<DocumentSlice> row(std::int64_t k);
  PackingReport report() const;

 private:
  std::shared_ptr<const TokenSource> source_;
  std::uint64_t seed_;
  std::string name_;
  std::int64_t length_, rows_per_epoch_ = 0, epoch_ = -1;
  PackedDocuments rows_;
  Permutation order_;

  std::uint64_t key(const char* what, std::int64_t epoch) const;
  void enter_epoch(std::int64_t epoch);
};

// Either of the two.
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
