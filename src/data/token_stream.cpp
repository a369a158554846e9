#include "data/token_stream.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "core/counter_rng.h"

namespace meristem {

TokenStream::TokenStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, std::string name)
    : source_(std::move(source)), seed_(seed), name_(std::move(name)), order_(0, source_->num_documents()) {}

void TokenStream::enter_epoch(std::int64_t epoch) {
  if (epoch == epoch_) return;
  order_ = Permutation(stream_key(seed_, fmt::format("data/{}/epoch {}", name_, epoch)), source_->num_documents());
  marks_.clear();
  walked_ = walked_tokens_ = 0;
  epoch_ = epoch;
}

void TokenStream::walk_to(std::int64_t token) {
  for (; walked_tokens_ <= token; ++walked_) {
    if (walked_ % kStride == 0) marks_.push_back(walked_tokens_);
    walked_tokens_ += source_->document_length(order_(walked_));
  }
}

std::vector<DocumentSlice> TokenStream::slices(std::int64_t offset, std::int64_t count) {
  std::vector<DocumentSlice> out;
  const std::int64_t tokens = source_->num_tokens();
  while (count > 0) {
    enter_epoch(offset / tokens);
    const std::int64_t begin = offset % tokens, here = std::min(count, tokens - begin);
    append_slices(begin, begin + here, out);
    offset += here;
    count -= here;
  }
  return out;
}

void TokenStream::append_slices(std::int64_t begin, std::int64_t end, std::vector<DocumentSlice>& slices) {
  walk_to(begin);
  const auto mark = std::upper_bound(marks_.begin(), marks_.end(), begin) - 1;
  std::int64_t place = (mark - marks_.begin()) * kStride, document_begin = *mark;
  while (begin < end) {
    const std::int64_t document = order_(place++), document_end = document_begin + source_->document_length(document);
    if (begin < document_end) {
      const std::int64_t count = std::min(end, document_end) - begin;
      slices.push_back({document, begin - document_begin, count});
      begin += count;
    }
    document_begin = document_end;
  }
}

}  // namespace meristem
