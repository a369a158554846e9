#include "data/source_stream.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "core/counter_rng.h"

namespace meristem {

std::vector<std::int64_t> permutation(std::int64_t count, std::uint64_t key) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_u64(key, i) % i]);
  return order;
}

SourceStream::SourceStream(TokenSource source, Options options) : source_(std::move(source)), options_(std::move(options)) {}

const SourceStream::Epoch& SourceStream::epoch(std::int64_t number) {
  if (epoch_.number == number) return epoch_;
  epoch_.number = number;
  const std::int64_t documents = source_.num_documents();
  if (options_.permute) {
    epoch_.order = permutation(documents, stream_key(options_.seed, fmt::format("documents/{}/{}", options_.name, number)));
  } else {
    epoch_.order.resize(static_cast<std::size_t>(documents));
    std::iota(epoch_.order.begin(), epoch_.order.end(), std::int64_t{0});
  }
  epoch_.start.assign(1, 0);
  for (const std::int64_t document : epoch_.order) epoch_.start.push_back(epoch_.start.back() + source_.document_length(document));
  return epoch_;
}

SourceStream::Place SourceStream::place(std::int64_t position) {
  const std::int64_t per_epoch = tokens_per_epoch(), within = position % per_epoch;
  const Epoch& e = epoch(position / per_epoch);
  // upper_bound steps over empty documents, which share their start with the next.
  const auto next = std::upper_bound(e.start.begin(), e.start.end(), within);
  const auto at = static_cast<std::size_t>(next - e.start.begin()) - 1;
  return {e.order[at], within - e.start[at], e.start[at + 1] - within};
}

SequenceRow SourceStream::sequence(std::int64_t k) {
  const std::int64_t length = options_.sequence_length, begin = k * length;
  const std::int64_t end = options_.permute ? begin + length + 1 : std::min(begin + length + 1, tokens_per_epoch());
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(length) + 1, 0);
  std::vector<bool> starts_document(tokens.size(), false);
  for (std::int64_t at = begin; at < end;) {
    const Place here = place(at);
    const std::int64_t count = std::min(here.left, end - at), slot = at - begin;
    source_.read(here.document, here.offset, count, tokens.data() + slot, options_.vocab_size);
    if (here.offset == 0) starts_document[static_cast<std::size_t>(slot)] = true;
    at += count;
  }

  SequenceRow row;
  row.inputs.assign(tokens.begin(), tokens.end() - 1);
  std::int32_t segment = 0;
  for (std::int64_t t = 0; t < length; ++t) {
    const auto slot = static_cast<std::size_t>(t);
    if (t == 0 || (options_.document_mask && starts_document[slot])) {
      segment = static_cast<std::int32_t>(t);
      row.segment_starts.push_back(segment);
    }
    row.positions.push_back(static_cast<std::int32_t>(t) - segment);
    const bool has_target = begin + t + 1 < end && !(options_.document_mask && starts_document[slot + 1]);
    row.targets.push_back(has_target ? tokens[slot + 1] : kNoTarget);
  }
  return row;
}

}  // namespace meristem
