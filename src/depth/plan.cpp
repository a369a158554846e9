#include "depth/plan.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {

DepthPlan DepthPlan::plain(std::int64_t blocks) {
  std::vector<std::int64_t> calls(static_cast<std::size_t>(blocks));
  std::iota(calls.begin(), calls.end(), std::int64_t{0});
  return DepthPlan(std::move(calls));
}

std::int64_t DepthPlan::max_block() const { return calls_.empty() ? -1 : *std::max_element(calls_.begin(), calls_.end()); }

bool DepthPlan::is_plain() const { return *this == plain(num_calls()); }

bool DepthPlan::calls_every_block(std::int64_t blocks) const {
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (std::find(calls_.begin(), calls_.end(), block) == calls_.end()) return false;
  }
  return true;
}

void DepthPlan::check(std::int64_t blocks, bool every_block) const {
  if (calls_.empty()) throw InputError("depth plan: calls no block");
  if (max_block() >= blocks) {
    throw InputError(fmt::format("depth plan: calls block {}; the model has blocks 0 to {}", max_block(), blocks - 1));
  }
  for (std::int64_t block = 0; every_block && block < blocks; ++block) {
    if (std::find(calls_.begin(), calls_.end(), block) == calls_.end()) {
      throw InputError(fmt::format("depth plan: never calls block {}; training needs every block called", block));
    }
  }
}

DepthPlan DepthPlan::repeat(std::int64_t start, std::int64_t length, std::int64_t extra) const {
  if (start < 0 || length < 1 || start + length > num_calls()) {
    throw InputError(fmt::format("depth plan: cannot repeat calls [{}, {}) of {}", start, start + length, num_calls()));
  }
  if (extra < 0 || num_calls() + extra * length > kMaxCalls) {
    throw InputError(fmt::format("depth plan: {} more repeats of {} calls; allowed: 0 to a plan of {} calls", extra, length, kMaxCalls));
  }
  std::vector<std::int64_t> calls(calls_.begin(), calls_.begin() + start + length);
  for (std::int64_t r = 0; r < extra; ++r) calls.insert(calls.end(), calls_.begin() + start, calls_.begin() + start + length);
  calls.insert(calls.end(), calls_.begin() + start + length, calls_.end());
  return DepthPlan(std::move(calls));
}

}  // namespace meristem
