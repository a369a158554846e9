#include "data/mixture_ramp.h"

#include <algorithm>
#include <numeric>

namespace meristem {
namespace {

// What rounding down left over goes to the largest: the sum must not change from update to update, because what sources lag behind is
// counted in units of it.
std::vector<std::int64_t> filled_up(std::vector<std::int64_t> weights) {
  const std::int64_t sum = std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
  *std::max_element(weights.begin(), weights.end()) += MixtureRamp::kTotal - sum;
  return weights;
}

std::vector<std::int64_t> shares_of(const std::vector<std::int64_t>& weights) {
  const __int128 sum = std::accumulate(weights.begin(), weights.end(), __int128{0});
  std::vector<std::int64_t> shares;
  for (const std::int64_t weight : weights) shares.push_back(static_cast<std::int64_t>(__int128{weight} * MixtureRamp::kTotal / sum));
  return filled_up(std::move(shares));
}

}  // namespace

MixtureRamp::MixtureRamp(const std::vector<std::int64_t>& from, const std::vector<std::int64_t>& to, std::int64_t steps)
    : from_(shares_of(from)), to_(shares_of(to)), steps_(steps) {}

std::vector<std::int64_t> MixtureRamp::weights(std::int64_t update) const {
  const std::int64_t done = std::min(update, steps_ + 1), left = steps_ + 1 - done;
  std::vector<std::int64_t> weights;
  for (std::size_t i = 0; i < from_.size(); ++i) {
    weights.push_back(static_cast<std::int64_t>((__int128{from_[i]} * left + __int128{to_[i]} * done) / (steps_ + 1)));
  }
  return filled_up(std::move(weights));
}

}  // namespace meristem
