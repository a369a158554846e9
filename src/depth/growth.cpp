#include "depth/growth.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "core/errors.h"

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
  static constexpr std::array<std::pair<std::string_view, GrowthOperator>, 4> kNames{{{"midas", GrowthOperator::kMidas},
                                                                                      {"lidas", GrowthOperator::kLidas},
                                                                                      {"append", GrowthOperator::kAppend},
                                                                                      {"stack", GrowthOperator::kStack}}};
  for (const auto& [known, op] : kNames) {
    if (known == name) return op;
  }
  throw InputError(fmt::format("growth operator: found {}; allowed: midas, lidas, append, stack", name));
}

SourceMap grow_map(GrowthOperator op, std::int64_t blocks, std::int64_t add) {
  if (blocks < 1 || add < 1 || add > blocks) {
    throw InputError(fmt::format("growth: cannot add {} blocks to {}; allowed: 1 to the number of blocks", add, blocks));
  }
  switch (op) {
    case GrowthOperator::kMidas: {
      if (blocks % add != 0) throw InputError(fmt::format("growth: midas copies one group of {} blocks; {} blocks are no multiple of it", add, blocks));
      const std::int64_t group = ceil_half(blocks / add) - 1;
      return copy_behind(blocks, group * add, add);
    }
    case GrowthOperator::kLidas: return copy_behind(blocks, ceil_half(blocks) - ceil_half(add), add);
    case GrowthOperator::kAppend: return copy_behind(blocks, blocks - add, add);
    case GrowthOperator::kStack:
      if (add != blocks) throw InputError(fmt::format("growth: stack doubles the model; adding {} to {} blocks does not", add, blocks));
      return copy_behind(blocks, 0, blocks);
  }
  throw InputError("growth: unknown operator");
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
  if (missing != used.end()) throw InputError(fmt::format("growth map: block {} is used nowhere; growth loses no block", missing - used.begin()));
}

std::vector<bool> inserted_blocks(const SourceMap& source_of) {
  std::vector<bool> inserted;
  for (std::size_t i = 0; i < source_of.size(); ++i) {
    inserted.push_back(std::find(source_of.begin(), source_of.begin() + static_cast<std::ptrdiff_t>(i), source_of[i]) !=
                       source_of.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return inserted;
}

std::vector<std::int64_t> prop_stage_lengths(std::int64_t total, std::int64_t stages, double alpha) {
  if (total < 0 || stages < 1) throw InputError(fmt::format("growth schedule: {} steps in {} stages", total, stages));
  std::vector<double> share(static_cast<std::size_t>(stages));
  for (std::size_t i = 0; i < share.size(); ++i) share[i] = std::pow(static_cast<double>(i + 1), alpha);
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  std::vector<std::int64_t> lengths;
  std::vector<double> remainder;
  for (double& part : share) {
    const double exact = static_cast<double>(total) * part / sum;
    // A whole number that rounding left a hair below itself is that number.
    const double whole = std::floor(exact + 1e-9 * std::max(1.0, exact));
    lengths.push_back(static_cast<std::int64_t>(whole));
    // On a grid, so that remainders which differ by rounding alone are ties and go to the lower stage.
    remainder.push_back(std::round(std::max(0.0, exact - whole) * 1e6));
  }
  std::vector<std::size_t> order(share.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  std::int64_t left = total - std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  for (std::size_t i = 0; left > 0; ++i, --left) ++lengths[order[i % order.size()]];
  return lengths;
}

}  // namespace meristem
