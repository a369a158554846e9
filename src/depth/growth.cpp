#include "depth/growth.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

// The blocks with a copy of [begin, begin + count) right behind it.
SourceMap copy_behind(std::int64_t blocks, std::int64_t begin, std::int64_t count) {
  SourceMap map(static_cast<std::size_t>(blocks));
  std::iota(map.begin(), map.end(), std::int64_t{0});
  SourceMap copy(map.begin() + begin, map.begin() + begin + count);
  map.insert(map.begin() + begin + count, copy.begin(), copy.end());
  return map;
}

std::int64_t ceil_half(std::int64_t x) { return (x + 1) / 2; }

}  // namespace

GrowthOperator parse_growth_operator(std::string_view name) {
  const auto op = choice_of<GrowthOperator>(name);
  if (op && *op != GrowthOperator::kMap) return *op;
  std::vector<std::string> known = all_words<GrowthOperator>();
  std::erase(known, word_of(GrowthOperator::kMap));
  const auto meant = did_you_mean(name, known);
  throw InputError(fmt::format("growth operator: found {}; allowed: {}{}", in_quotes(name), fmt::join(known, ", "),
                               meant ? fmt::format(" (did you mean {}?)", *meant) : ""));
}

SourceMap grow_map(GrowthOperator op, std::int64_t blocks, std::int64_t add) {
  if (blocks < 1 || add < 1 || add > blocks) {
    throw InputError(fmt::format("growth: cannot add {} blocks to {}; allowed: 1 to the number of blocks", add, blocks));
  }
  switch (op) {
    case GrowthOperator::kMidas: {
      if (blocks % add != 0) {
        throw InputError(fmt::format("growth: midas copies one group of {} blocks; {} blocks are no multiple of it", add, blocks));
      }
      const std::int64_t group = ceil_half(blocks / add) - 1;
      return copy_behind(blocks, group * add, add);
    }
    case GrowthOperator::kLidas: return copy_behind(blocks, ceil_half(blocks) - ceil_half(add), add);
    case GrowthOperator::kAppend: return copy_behind(blocks, blocks - add, add);
    case GrowthOperator::kStack:
      if (add != blocks) throw InputError(fmt::format("growth: stack doubles the model; adding {} to {} blocks does not", add, blocks));
      return copy_behind(blocks, 0, blocks);
    case GrowthOperator::kMap: break;
  }
  throw InputError("growth: operator map makes no map of its own");
}

void check_source_map(const SourceMap& source_of, std::int64_t blocks) {
  if (source_of.empty()) throw InputError("growth map: is empty");
  std::vector<bool> used(static_cast<std::size_t>(std::max<std::int64_t>(blocks, 0)), false);
  for (std::size_t i = 0; i < source_of.size(); ++i) {
    if (source_of[i] < 0 || source_of[i] >= blocks) {
      throw InputError(fmt::format("growth map: entry {} is {}; allowed: blocks 0 to {}", i, source_of[i], blocks - 1));
    }
    used[static_cast<std::size_t>(source_of[i])] = true;
  }
  const auto missing = std::find(used.begin(), used.end(), false);
  if (missing != used.end()) {
    throw InputError(fmt::format("growth map: block {} is used nowhere; growth loses no block", missing - used.begin()));
  }
}

std::vector<bool> inserted_blocks(const SourceMap& source_of) {
  std::vector<bool> inserted;
  std::unordered_set<std::int64_t> seen;
  for (const std::int64_t source : source_of) inserted.push_back(!seen.insert(source).second);
  return inserted;
}

bool same_calls_without_inserted(const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& calls,
                                 const SourceMap& source_of) {
  const std::vector<bool> inserted = inserted_blocks(source_of);
  std::vector<std::int64_t> old_calls;
  for (const std::int64_t block : calls) {
    if (!inserted[static_cast<std::size_t>(block)]) old_calls.push_back(source_of[static_cast<std::size_t>(block)]);
  }
  return old_calls == before;
}

std::vector<std::int64_t> prop_stage_lengths(std::int64_t total, std::int64_t stages, double alpha) {
  if (total < 0 || stages < 1) throw InputError(fmt::format("growth schedule: {} steps in {} stages", total, stages));
  // Long double, so that totals in tokens (1e13) keep remainders that mean something.
  std::vector<long double> share(static_cast<std::size_t>(stages));
  for (std::size_t i = 0; i < share.size(); ++i) share[i] = std::pow(static_cast<long double>(i + 1), static_cast<long double>(alpha));
  const long double sum = std::accumulate(share.begin(), share.end(), 0.0L);
  if (!std::isfinite(sum) || !(sum > 0)) {
    throw InputError(fmt::format("growth schedule: alpha {} is no usable exponent for {} stages", alpha, stages));
  }
  std::vector<std::int64_t> lengths;
  std::vector<long double> remainder;
  for (const long double part : share) {
    const long double exact = static_cast<long double>(total) * (part / sum);
    // A whole number that rounding left a hair below itself is that number.
    const long double whole = std::floor(exact + 1e-6L);
    lengths.push_back(static_cast<std::int64_t>(whole));
    // On a grid, so that remainders which differ by rounding alone are ties and go to the lower stage.
    remainder.push_back(std::round(std::max(0.0L, exact - whole) * 1e5L));
  }
  std::vector<std::size_t> order(share.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  std::int64_t left = total - std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  for (std::size_t i = 0; left > 0; ++i, --left) ++lengths[order[i % order.size()]];
  return lengths;
}

}  // namespace meristem
