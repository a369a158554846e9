// The endless stream of one source: all its documents in a new order every epoch, one epoch after another.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/permutation.h"
#include "data/token_source.h"

namespace meristem {

// A run of tokens that lie in one document.
struct DocumentSlice {
  std::int64_t document = 0;
  std::int64_t begin = 0;  // token inside the document
  std::int64_t count = 0;  // at least 1
};

class TokenStream {
 public:
  // The order of epoch e is a function of (seed, name, e) and the number of documents.
  TokenStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, std::string name);

  const TokenSource& source() const { return *source_; }
  // The slices that make up tokens [offset, offset + count) of the stream, in order. Cheap while offsets stay in one epoch or go up.
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

  void enter_epoch(std::int64_t epoch);
  // Appends the slices of tokens [begin, end) of the entered epoch.
  void append_slices(std::int64_t begin, std::int64_t end, std::vector<DocumentSlice>& slices) const;
};

}  // namespace meristem
