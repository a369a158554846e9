// The rows of one source under data.packing: best_fit, epoch after epoch: whole documents, none of them split over two rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/best_fit.h"
#include "data/permutation.h"
#include "data/token_source.h"
#include "data/token_stream.h"

namespace meristem {

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

}  // namespace meristem
