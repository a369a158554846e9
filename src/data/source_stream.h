// A source as an endless stream: its documents, permuted anew for every epoch, one after another. Sequence k reads inputs
// stream[kT, kT+T) and targets stream[kT+1, kT+T+1): each token is a target once an epoch, but the stream's very first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/token_source.h"

namespace meristem {

class SourceStream {
 public:
  struct Options {
    std::int64_t sequence_length = 0, vocab_size = 0;
    bool document_mask = true;
    bool permute = true;      // false: documents in file order, one epoch (validation)
    std::uint64_t seed = 0;
    std::string name;         // with the seed the key of the permutations
  };
  SourceStream(TokenSource source, Options options);

  std::int64_t tokens_per_epoch() const { return source_.num_tokens(); }
  // Sequence k. Not permuted: past the end inputs are 0 and targets kNoTarget.
  SequenceRow sequence(std::int64_t k);

 private:
  struct Epoch {
    std::int64_t number = -1;
    std::vector<std::int64_t> order;  // document at each place
    std::vector<std::int64_t> start;  // [documents + 1] token offset of each place
  };
  // Where a stream position lies.
  struct Place {
    std::int64_t document, offset, left;  // left: tokens of the document from here on
  };
  const Epoch& epoch(std::int64_t number);
  Place place(std::int64_t position);

  TokenSource source_;
  Options options_;
  Epoch epoch_;
};

// A permutation of [0, count) as a function of the key (Fisher-Yates over a counter-based stream).
std::vector<std::int64_t> permutation(std::int64_t count, std::uint64_t key);

}  // namespace meristem
