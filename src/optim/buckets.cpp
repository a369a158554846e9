#include "optim/buckets.h"

#include <algorithm>
#include <numeric>

#include <c10/util/Exception.h>

namespace meristem {
namespace {

struct Region {
  UpdateRule rule;
  std::int64_t begin = 0, end = 0;
};

std::vector<Region> regions_of(const FlatLayout& layout) {
  std::vector<Region> regions;
  for (std::size_t r = 0; r < layout.ranges.size(); ++r) {
    const FlatRange& range = layout.ranges[r];
    if (regions.empty() || regions.back().rule != range.rule) regions.push_back({range.rule, range.offset, 0});
    regions.back().end = r + 1 < layout.ranges.size() ? layout.ranges[r + 1].offset : layout.count;
  }
  return regions;
}

// Cut from the end, so that what is left over is at the beginning, which backward completes last.
void cut_evenly(const Region& region, int ranks, std::int64_t elements, std::vector<FlatBucket>& buckets) {
  const std::int64_t unit = ranks * kFlatAlign, size = std::max<std::int64_t>(1, elements / unit) * unit;
  TORCH_CHECK((region.end - region.begin) % unit == 0, "the flat layout is not padded for ", ranks, " ranks");
  for (std::int64_t end = region.end; end > region.begin;) {
    const std::int64_t begin = std::max(region.begin, end - size), part = (end - begin) / ranks;
    FlatBucket bucket;
    bucket.rule = region.rule, bucket.offset = begin, bucket.count = end - begin;
    for (int rank = 0; rank < ranks; ++rank) bucket.pieces.push_back({begin + rank * part, part, rank});
    buckets.push_back(std::move(bucket));
    end = begin;
  }
}

// The pieces of a matrix parameter, without owners, and the work of each.
void cut_matrices(const FlatEntry& entry, std::int64_t end, int ranks, std::vector<FlatPiece>& pieces, std::vector<double>& work) {
  const auto rank3 = entry.shape.size() == 3;
  const std::int64_t matrices = rank3 ? entry.shape[0] : 1, rows = entry.shape[rank3 ? 1 : 0], columns = entry.shape[rank3 ? 2 : 1];
  const std::int64_t parts = std::min<std::int64_t>(matrices, ranks);
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t first = matrices * part / parts, last = matrices * (part + 1) / parts;
    const std::int64_t offset = entry.offset + first * rows * columns;
    pieces.push_back({offset, part + 1 < parts ? (last - first) * rows * columns : end - offset, 0});
    work.push_back(newton_schulz_work(last - first, rows, columns));
  }
}

// The heaviest first, each to the rank that has the least so far.
void assign(std::vector<FlatPiece>& pieces, const std::vector<double>& work, int ranks) {
  std::vector<std::size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return work[a] > work[b]; });
  std::vector<double> load(static_cast<std::size_t>(ranks));
  for (const std::size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    pieces[i].owner = static_cast<int>(least - load.begin());
    *least += work[i];
  }
}

void cut_by_matrix(const FlatLayout& layout, const Region& region, int ranks, std::int64_t elements, std::vector<FlatBucket>& buckets) {
  std::vector<FlatPiece> pieces;
  std::vector<double> work;
  std::vector<std::int64_t> ends;  // of parameters
  for (std::size_t e = 0; e < layout.entries.size(); ++e) {
    const FlatEntry& entry = layout.entries[e];
    if (layout.ranges[entry.range].rule != region.rule) continue;
    ends.push_back(region.end);
    if (ends.size() > 1) ends[ends.size() - 2] = entry.offset;
  }
  std::size_t next = 0;
  for (const FlatEntry& entry : layout.entries) {
    if (layout.ranges[entry.range].rule == region.rule) cut_matrices(entry, ends[next++], ranks, pieces, work);
  }
  assign(pieces, work, ranks);
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    FlatBucket* bucket = buckets.empty() || buckets.back().rule != region.rule ? nullptr : &buckets.back();
    if (bucket == nullptr || bucket->count >= elements) bucket = &buckets.emplace_back();
    bucket->rule = region.rule;
    bucket->offset = piece->offset;
    bucket->count += piece->count;
    bucket->pieces.insert(bucket->pieces.begin(), *piece);
  }
}

}  // namespace

double newton_schulz_work(std::int64_t matrices, std::int64_t rows, std::int64_t columns) {
  const auto small = static_cast<double>(std::min(rows, columns)), large = static_cast<double>(std::max(rows, columns));
  return static_cast<double>(matrices) * small * small * (2 * large + small);
}

std::vector<FlatBucket> buckets_of(const FlatLayout& layout, int ranks, double bucket_mb) {
  const auto elements = std::max<std::int64_t>(1, static_cast<std::int64_t>(bucket_mb * 1e6 / 4));
  std::vector<FlatBucket> buckets;
  for (const Region& region : regions_of(layout)) {
    if (region.rule == UpdateRule::kMuon) {
      cut_by_matrix(layout, region, ranks, elements, buckets);
    } else {
      cut_evenly(region, ranks, elements, buckets);
    }
  }
  for (FlatBucket& bucket : buckets) {
    for (std::size_t e = 0; e < layout.entries.size(); ++e) {
      const FlatEntry& entry = layout.entries[e];
      const bool inside = entry.offset < bucket.offset + bucket.count && entry.offset + entry.count > bucket.offset;
      if (!inside) continue;
      bucket.first_part = std::min(bucket.first_part, entry.part);
      if (entry.learns) bucket.entries.push_back(e);
    }
  }
  // A bucket's last gradient is that of the part which the forward pass reads first.
  std::stable_sort(buckets.begin(), buckets.end(), [](const auto& a, const auto& b) { return a.first_part > b.first_part; });
  return buckets;
}

}  // namespace meristem
