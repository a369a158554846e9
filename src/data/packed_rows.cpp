#include "data/packed_rows.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/counter_rng.h"
#include "core/text.h"

namespace meristem {
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

}  // namespace meristem
