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

}  // namespace meristem
