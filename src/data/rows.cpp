#include "data/rows.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/counter_rng.h"
#include "core/text.h"

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

PackedDocuments best_fit_decreasing(std::int64_t count, std::int64_t capacity, const std::function<std::int64_t(std::int64_t)>& length,
                                    const std::function<std::int64_t(std::int64_t)>& at) {
  std::map<std::int64_t, std::vector<std::int64_t>, std::greater<>> by_length;  // documents of a length, in the order of their places
  for (std::int64_t place = 0; place < count; ++place) {
    const std::int64_t document = at(place), tokens = std::min(length(document), capacity);
    if (tokens > 0) by_length[tokens].push_back(document);
  }
  PackedDocuments rows;
  std::map<std::int64_t, std::vector<std::size_t>> by_room;  // rows that are not full
  for (const auto& [tokens, documents] : by_length) {
    for (const std::int64_t document : documents) {
      const auto fit = by_room.lower_bound(tokens);
      std::size_t row = rows.size();
      std::int64_t room = capacity;
      if (fit == by_room.end()) {
        rows.emplace_back();
      } else {
        room = fit->first;
        row = fit->second.back();
        fit->second.pop_back();
        if (fit->second.empty()) by_room.erase(fit);
      }
      rows[row].push_back(document);
      if (room > tokens) by_room[room - tokens].push_back(row);
    }
  }
  return rows;
}

namespace {

constexpr std::size_t kNamedDocuments = 5;

std::int64_t count_trained(const TokenSource& source, std::int64_t document, std::int64_t begin, std::int64_t count) {
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(count));
  source.read_mask(document, begin, count, mask.data());
  return std::count(mask.begin(), mask.end(), std::uint8_t{1});
}

}  // namespace

std::vector<std::string> packing_notes(const PackingReport& report, std::int64_t length, std::int64_t sequences_per_step) {
  const auto rows = static_cast<double>(report.rows);
  std::vector<std::string> notes{fmt::format("source {}: {} documents in {} sequences an epoch, {:.1f} % filled; {:.4g} updates an epoch",
                                             report.name, grouped_digits(report.documents), grouped_digits(report.rows),
                                             100.0 * static_cast<double>(report.tokens) / (rows * static_cast<double>(length)),
                                             rows / static_cast<double>(sequences_per_step))};
  if (report.cut_documents > 0) {
    const bool more = report.cut_documents > static_cast<std::int64_t>(report.cut.size());
    notes.push_back(fmt::format(
        "warning: source {}: {} documents are longer than data.sequence_length {} and are cut there: {} tokens lost, {} of "
        "them trained; documents {}{}",
        report.name, report.cut_documents, length, report.cut_tokens, report.cut_trained, fmt::join(report.cut, ", "), more ? ", …" : ""));
  }
  return notes;
}

PackedRows::PackedRows(std::shared_ptr<const TokenSource> source, std::uint64_t seed, std::string name, std::int64_t length)
    : source_(std::move(source)), seed_(seed), name_(std::move(name)), length_(length), order_(0, 1) {
  enter_epoch(0);
  rows_per_epoch_ = static_cast<std::int64_t>(rows_.size());
}

std::uint64_t PackedRows::key(const char* what, std::int64_t epoch) const {
  return stream_key(seed_, fmt::format("{}/{}/epoch {}", what, name_, epoch));
}

// Other documents share a row, and the rows come in another order, every epoch.
void PackedRows::enter_epoch(std::int64_t epoch) {
  if (epoch == epoch_) return;
  const Permutation documents(key("data", epoch), source_->num_documents());
  rows_ = best_fit_decreasing(source_->num_documents(), length_, [&](std::int64_t d) { return source_->document_length(d); }, documents);
  order_ = Permutation(key("rows", epoch), static_cast<std::int64_t>(rows_.size()));
  epoch_ = epoch;
}

std::vector<DocumentSlice> PackedRows::row(std::int64_t k) {
  enter_epoch(k / rows_per_epoch_);
  std::vector<DocumentSlice> slices;
  for (const std::int64_t document : rows_[static_cast<std::size_t>(order_(k % rows_per_epoch_))]) {
    slices.push_back({document, 0, std::min(source_->document_length(document), length_)});
  }
  return slices;
}

PackingReport PackedRows::report() const {
  PackingReport report;
  report.name = name_;
  report.documents = source_->num_documents();
  report.rows = rows_per_epoch_;
  report.tokens = source_->num_tokens();
  for (std::int64_t document = 0; document < report.documents; ++document) {
    const std::int64_t over = source_->document_length(document) - length_;
    if (over <= 0) continue;
    report.tokens -= over;
    report.cut_tokens += over;
    report.cut_trained += count_trained(*source_, document, length_, over);
    if (report.cut.size() < kNamedDocuments) report.cut.push_back(document);
    ++report.cut_documents;
  }
  return report;
}

RowStream::RowStream(std::shared_ptr<const TokenSource> source, std::uint64_t seed, const std::string& name, const DataConfig& config)
    : stream_(source, seed, name), length_(config.sequence_length) {
  if (config.packing == Packing::kBestFit) packed_.emplace(std::move(source), seed, name, length_);
}

std::int64_t RowStream::positions_per_epoch() const { return packed_ ? packed_->per_epoch() * length_ : source().num_tokens(); }

std::vector<DocumentSlice> RowStream::row(std::int64_t offset) {
  return packed_ ? packed_->row(offset / length_) : stream_.slices(offset, length_ + 1);
}

std::optional<PackingReport> RowStream::packing() const { return packed_ ? std::optional(packed_->report()) : std::nullopt; }

}  // namespace meristem
