// Problems of the cross-entropy of a chunk of logits, with a reference in any precision.
#pragma once

#include "kernels/values.h"
#include "meristem_kernels/cross_entropy.h"

namespace meristem::test {

struct CrossEntropyCase {
  std::string name;
  std::int64_t rows;
  int vocab;
  double factor = 1;      // of a standard normal
  double bias = 0;        // added to every logit
  bool ignored = false;   // every third row has no target
  bool hidden = false;    // some logits are -infinity
  std::size_t shift = 0;  // elements by which the logits miss their alignment
};

inline std::vector<CrossEntropyCase> cross_entropy_cases() {
  return {{"one row of one", 1, 1},
          {"nothing", 0, 100},
          {"less than a vector", 3, 5},
          {"a vector", 2, 8, 1, 0, true},
          {"odd rows begin anywhere", 9, 257, 3, 0, true},
          {"one vector a thread", 2, 4096},
          {"one more than that", 2, 4097, 1, 0, true},
          {"several turns", 2, 9001, 2},
          {"GPT-2's vocabulary, one row", 1, 50257, 4},
          {"large logits", 7, 1000, 300},
          {"far above zero", 5, 300, 2, 3e4},
          {"far below zero", 5, 300, 2, -3e4},
          {"with hidden columns", 6, 700, 1, 0, true, true},
          {"not aligned", 5, 256, 1, 0, true, false, 1},
          {"not aligned by three", 5, 259, 1, 0, true, false, 3}};
}

template <class X, class Memory>
class CrossEntropyProblem {
 public:
  explicit CrossEntropyProblem(const CrossEntropyCase& given)
      : c_(given),
        size_(as_size(given.rows) * as_size(given.vocab) + given.shift),
        logits_(size_),
        given_(size_),
        targets_(as_size(given.rows)),
        losses_(as_size(given.rows)),
        losses_alone_(as_size(given.rows)) {
    std::mt19937 random(9);
    std::normal_distribution<double> normal;
    for (X& x : given_) x = element_of<X>(c_.hidden && random() % 7 == 0 ? -INFINITY : c_.factor * normal(random) + c_.bias);
    for (std::size_t r = 0; r < targets_.size(); ++r) {
      targets_[r] = c_.ignored && r % 3 == 1 ? -1 : static_cast<std::int32_t>(random() % static_cast<unsigned>(c_.vocab));
      if (r == 0) targets_[r] = c_.vocab - 1;
      if (targets_[r] >= 0) given_[c_.shift + r * as_size(c_.vocab) + as_size(targets_[r])] = element_of<X>(c_.factor + c_.bias);
    }
    std::copy(given_.begin(), given_.end(), logits_.begin());
  }

  void run() {
    const kernels::CrossEntropyShape shape{c_.rows, c_.vocab, kElement<X>};
    kernels::cross_entropy(shape, logits_.data() + c_.shift, targets_.data(), losses_alone_.data(), false, nullptr);
    Memory::finish();
    kept_ = std::equal(given_.begin(), given_.end(), logits_.begin(), [](X a, X b) { return value_of(a) == value_of(b); });
    kernels::cross_entropy(shape, logits_.data() + c_.shift, targets_.data(), losses_.data(), true, nullptr);
    Memory::finish();
  }

  std::string faults() {
    run();
    const Result truth = reference<double>(), same = reference<float>();
    const double ulp = std::ldexp(1.0, -22), size = 1 + c_.factor;
    std::string wrong = worse_than("losses", values_of(losses_), same.losses, truth.losses, 2, ulp * 4 * size);
    // fp32: a probability is an exponential of x - max - log_sum, whose rounding it has in relation to that number's size.
    wrong += worse_than("gradient", gradient(), same.gradient, truth.gradient, 3, sizeof(X) == 4 ? ulp : 0);
    if (!kept_) wrong += "logits changed without a gradient asked for; ";
    if (!std::equal(losses_.begin(), losses_.end(), losses_alone_.begin())) wrong += "the losses depend on the gradient; ";
    for (std::size_t i = 0; i < c_.shift; ++i) {
      if (value_of(logits_[i]) != value_of(given_[i])) wrong += "written before the first row; ";
    }
    return wrong;
  }
  std::vector<double> gradient() const {
    std::vector<double> values = values_of(logits_);
    values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(c_.shift));
    return values;
  }

 private:
  struct Result {
    std::vector<double> losses, gradient;
  };
  template <class Real>
  Result reference() const {
    Result result;
    const std::size_t vocab = as_size(c_.vocab);
    for (std::size_t r = 0; r < targets_.size(); ++r) {
      const auto x = [&](std::size_t j) { return static_cast<Real>(value_of(given_[c_.shift + r * vocab + j])); };
      Real max = x(0), sum = 0;
      for (std::size_t j = 0; j < vocab; ++j) max = std::max(max, x(j));
      for (std::size_t j = 0; j < vocab; ++j) sum += std::exp(x(j) - max);
      const Real log_sum = std::log(sum);
      const bool has = targets_[r] >= 0;
      result.losses.push_back(has ? static_cast<double>(log_sum - (x(as_size(targets_[r])) - max)) : 0);
      for (std::size_t j = 0; j < vocab; ++j) {
        const Real p = std::exp(x(j) - max - log_sum) - (static_cast<std::int64_t>(j) == targets_[r] ? 1 : 0);
        result.gradient.push_back(has ? static_cast<double>(stored<X>(p)) : 0);
      }
    }
    return result;
  }

  CrossEntropyCase c_;
  std::size_t size_;
  typename Memory::template Array<X> logits_, given_;
  typename Memory::template Array<std::int32_t> targets_;
  typename Memory::template Array<float> losses_, losses_alone_;
  bool kept_ = false;
};

template <class Memory>
std::string cross_entropy_faults(const CrossEntropyCase& one) {
  const std::string half = CrossEntropyProblem<Bf16, Memory>(one).faults(), narrow = CrossEntropyProblem<float, Memory>(one).faults();
  return (half.empty() ? "" : "bf16: " + half) + (narrow.empty() ? "" : "fp32: " + narrow);
}

}  // namespace meristem::test
