// Which source comes next: the one furthest below its weight. Whole numbers throughout, so that ties are ties on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace meristem {

class Mixture {
 public:
  // One weight a source, in file order, not negative, at least one positive; they need not sum to 1. Rounded to 1e-9.
  // InputError where a positive weight is too small or too large to be held.
  explicit Mixture(const std::vector<double>& weights);

  // Draws one: the source i with the largest weight_i * (n + 1) - drawn_i, the first of equals, never one of weight 0.
  std::size_t draw();
  // As `count` calls of draw(), at once: whole periods of the pattern are counted, not drawn.
  void skip(std::int64_t count);

  const std::vector<std::int64_t>& weights() const { return weights_; }  // in units of 1e-9
  const std::vector<std::int64_t>& drawn() const { return drawn_; }
  // Goes on after these draws. False, with nothing changed, where draw() cannot have led to them.
  bool restore(const std::vector<std::int64_t>& drawn);

 private:
  std::vector<std::int64_t> weights_, drawn_;
  std::vector<std::int64_t> lag_;  // total * (weight share * n - drawn), bounded by a few times total
  std::int64_t total_ = 0, period_ = 0;
};

}  // namespace meristem
