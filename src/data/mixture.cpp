#include "data/mixture.h"

#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {

Mixture::Mixture(const std::vector<double>& weights) : drawn_(weights.size(), 0), lag_(weights.size(), 0) {
  std::int64_t divisor = 0;
  for (const double weight : weights) {
    if (!(weight >= 0 && weight <= 1e6) || (weight > 0 && weight < 1e-9)) {
      throw InputError(fmt::format("mixture: weight {}, allowed: 0, or 1e-9 to 1e6", number_text(weight)));
    }
    weights_.push_back(std::llround(weight * 1e9));
    total_ += weights_.back();
    divisor = std::gcd(divisor, weights_.back());
  }
  if (total_ == 0) throw InputError("mixture: no source has a positive weight");
  // After total/divisor draws every source has exactly its share, and the pattern begins anew.
  period_ = total_ / divisor;
}

std::size_t Mixture::draw() {
  std::size_t best = weights_.size();
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    lag_[i] += weights_[i];
    if (weights_[i] > 0 && (best == weights_.size() || lag_[i] > lag_[best])) best = i;
  }
  lag_[best] -= total_;
  ++drawn_[best];
  return best;
}

void Mixture::skip(std::int64_t count) {
  const std::int64_t periods = count / period_;
  for (std::size_t i = 0; i < weights_.size(); ++i) drawn_[i] += periods * (weights_[i] / (total_ / period_));
  for (std::int64_t i = periods * period_; i < count; ++i) draw();
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

}  // namespace meristem
