#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

// Moves on by one draw and returns the source whose turn it is. One of weight 0 stays at lag 0, and the largest lag is positive, because
// the lags sum to the total weight: it is never chosen. Free of branches that cannot be predicted: check_supply runs this 1e8 times.
inline std::size_t furthest_below(const std::vector<std::int64_t>& weights, std::vector<std::int64_t>& lag) {
  const std::int64_t* weight = weights.data();
  std::int64_t* value = lag.data();
  std::size_t best = 0;
  std::int64_t most = value[0] += weight[0];
  for (std::size_t i = 1, size = weights.size(); i < size; ++i) {
    const std::int64_t here = value[i] += weight[i];
    const bool more = here > most;
    best = more ? i : best;
    most = more ? here : most;
  }
  return best;
}

}  // namespace

Mixture::Mixture(const std::vector<double>& weights) : drawn_(weights.size(), 0), lag_(weights.size(), 0) {
  for (const double weight : weights) {
    if (!(weight >= 0 && weight <= 1e6) || (weight > 0 && weight < 1e-9)) {
      throw InputError(fmt::format("mixture: weight {}, allowed: 0, or 1e-9 to 1e6", number_text(weight)));
    }
    weights_.push_back(std::llround(weight * 1e9));
  }
  find_period();
  if (total_ == 0) throw InputError("mixture: no source has a positive weight");
}

// After total/divisor draws every source has exactly its share, and the pattern begins anew.
void Mixture::find_period() {
  std::int64_t divisor = 0;
  for (const std::int64_t weight : weights_) divisor = std::gcd(divisor, weight);
  total_ = std::accumulate(weights_.begin(), weights_.end(), std::int64_t{0});
  period_ = divisor > 0 ? total_ / divisor : 0;
}

void Mixture::set_weights(std::vector<std::int64_t> weights) {
  if (weights == weights_) return;
  weights_ = std::move(weights);
  find_period();
}

std::size_t Mixture::draw() {
  const std::size_t source = furthest_below(weights_, lag_);
  lag_[source] -= total_;
  ++drawn_[source];
  return source;
}

void Mixture::skip(std::int64_t count) {
  const std::int64_t periods = count / period_;
  for (std::size_t i = 0; i < weights_.size(); ++i) drawn_[i] += periods * (weights_[i] / (total_ / period_));
  const std::vector<std::int64_t> before = lag_;
  const std::int64_t rest = count % period_;
  for (std::int64_t i = 0; i < rest; ++i) lag_[furthest_below(weights_, lag_)] -= total_;
  // What the rest drew of each follows from its lag: counting in the loop would cost a third of its time.
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    drawn_[i] += static_cast<std::int64_t>((__int128{weights_[i]} * rest - (lag_[i] - before[i])) / total_);
  }
}

bool Mixture::restore(const std::vector<std::int64_t>& drawn) {
  if (drawn.size() != weights_.size()) return false;
  const __int128 n = std::accumulate(drawn.begin(), drawn.end(), __int128{0});
  const __int128 bound = __int128{total_} * static_cast<std::int64_t>(drawn.size());
  std::vector<std::int64_t> lag;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    const __int128 value = weights_[i] * n - __int128{total_} * drawn[i];
    if (drawn[i] < 0 || value > bound || value <= -__int128{total_}) return false;
    lag.push_back(static_cast<std::int64_t>(value));
  }
  drawn_ = drawn;
  lag_ = std::move(lag);
  return true;
}

bool Mixture::restore(const std::vector<std::int64_t>& drawn, const std::vector<std::int64_t>& lag) {
  if (drawn.size() != weights_.size() || lag.size() != weights_.size()) return false;
  const __int128 bound = __int128{total_} * static_cast<std::int64_t>(lag.size());
  __int128 sum = 0;
  for (std::size_t i = 0; i < lag.size(); ++i) {
    if (drawn[i] < 0 || lag[i] > bound || lag[i] <= -total_) return false;
    sum += lag[i];
  }
  if (sum != 0) return false;
  drawn_ = drawn;
  lag_ = lag;
  return true;
}

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
