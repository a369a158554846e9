#include "analysis/lens.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/counter_rng.h"
#include "core/errors.h"

namespace meristem {
namespace {

constexpr std::int64_t kTop = 5;
constexpr std::size_t kFewestTokens = 64;

at::Tensor log_probabilities(const Model& model, const at::Tensor& h_ND) { return model.read_out(h_ND).to(at::kFloat).log_softmax(1); }

// Streams behind each call, [R] of [N, D], of all texts' tokens, at most `most` of them.
std::vector<at::Tensor> streams_of(const Subject& subject, const std::vector<TokenIds>& texts, std::int64_t most) {
  std::vector<std::vector<at::Tensor>> by_call(static_cast<std::size_t>(subject.calls()));
  std::int64_t tokens = 0;
  for (const TokenIds& ids : texts) {
    if (tokens >= most) break;
    const std::int64_t count = std::min(most - tokens, static_cast<std::int64_t>(ids.size()));
    const Recording recording = record(subject, batch_of(ids, 1, subject.device));
    for (std::size_t r = 0; r < by_call.size(); ++r) by_call[r].push_back(recording.streams[r + 1].narrow(0, 0, count));
    tokens += count;
  }
  std::vector<at::Tensor> out;
  for (const auto& parts : by_call) out.push_back(at::cat(parts));
  return out;
}

// The map that takes x to y - x with the least square error, as (A, b).
std::pair<at::Tensor, at::Tensor> nearest_map(const at::Tensor& x_ND, const at::Tensor& y_ND, double ridge) {
  const at::Tensor x = x_ND.to(torch::kDouble), y = y_ND.to(torch::kDouble), x_mean = x.mean(0), y_mean = y.mean(0);
  const at::Tensor centred = x - x_mean, target = (y - y_mean) - centred;
  const at::Tensor squares = centred.t().mm(centred);
  const double weight = ridge * squares.diagonal().mean().item<double>() + 1e-12;
  const at::Tensor identity = at::eye(x.size(1), x.options());
  const at::Tensor map = at::linalg_solve(squares + weight * identity, centred.t().mm(target)).t();  // [D, D]: y - x = A x
  return {map.to(x_ND.scalar_type()).contiguous(), (y_mean - x_mean - map.mv(x_mean)).to(x_ND.scalar_type())};
}

// KL(model | lens), up to what does not depend on the lens; the mean over tokens.
at::Tensor cross_entropy(const Model& model, const at::Tensor& log_truth_NV, const at::Tensor& h_ND) {
  return -(log_truth_NV.exp() * log_probabilities(model, h_ND)).sum(1).mean();
}

at::Tensor apply(const at::Tensor& map, const at::Tensor& bias, const at::Tensor& h_ND) { return h_ND + at::linear(h_ND, map, bias); }

// Adam on one call's map.
class Tuning {
 public:
  Tuning(const Model& model, const LensTraining& training, at::Tensor map, at::Tensor bias)
      : model_(model), training_(training), parameters_{std::move(map), std::move(bias)} {
    for (at::Tensor& parameter : parameters_) {
      parameter = parameter.clone().requires_grad_(true);
      first_.push_back(at::zeros_like(parameter));
      second_.push_back(at::zeros_like(parameter));
    }
  }
  void step(const at::Tensor& h_ND, const at::Tensor& log_truth_NV) {
    ++steps_;
    const at::AutoGradMode learns(true);
    const at::Tensor loss = cross_entropy(model_, log_truth_NV, apply(parameters_[0], parameters_[1], h_ND));
    const auto grads = torch::autograd::grad({loss}, {parameters_[0], parameters_[1]});
    const torch::NoGradGuard no_grad;
    const double share = static_cast<double>(steps_ - 1) / static_cast<double>(training_.steps);
    const double rate = training_.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * share));
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      first_[i].mul_(kBeta1).add_(grads[i], 1 - kBeta1);
      second_[i].mul_(kBeta2).addcmul_(grads[i], grads[i], 1 - kBeta2);
      const at::Tensor mean = first_[i] / (1 - std::pow(kBeta1, steps_)), square = second_[i] / (1 - std::pow(kBeta2, steps_));
      parameters_[i].sub_(rate * mean / (square.sqrt() + 1e-8));
    }
  }
  at::Tensor map() const { return parameters_[0].detach(); }
  at::Tensor bias() const { return parameters_[1].detach(); }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.99;
  const Model& model_;
  const LensTraining& training_;
  std::vector<at::Tensor> parameters_, first_, second_;
  int steps_ = 0;
};

}  // namespace

at::Tensor Lens::translated(std::int64_t call, const at::Tensor& h_ND) const {
  return maps.defined() ? apply(maps[call], biases[call], h_ND) : h_ND;
}

Measurements measure_lens(const Subject& subject, const Lens& lens, const TokenIds& text, const Recording& recording,
                          const std::string& prefix) {
  const torch::NoGradGuard no_grad;
  const std::int64_t top = std::min(kTop, subject.vocab_size);
  const at::Tensor overlap = at::zeros({subject.calls()}, torch::kDouble), kl = overlap.clone(), accuracy = overlap.clone();
  const at::Tensor truth = log_probabilities(subject.model, recording.streams.back());
  const at::Tensor true_top = std::get<1>(truth.topk(top, 1));
  const at::Tensor targets = batch_of(text, 1, subject.device).targets_N.slice(0, 0, -1).to(torch::kLong);
  const auto mean = [](const at::Tensor& values) { return values.to(torch::kDouble).mean().cpu(); };
  for (std::int64_t r = 0; r < subject.calls(); ++r) {
    const at::Tensor seen = log_probabilities(subject.model, lens.translated(r, recording.streams[static_cast<std::size_t>(r + 1)]));
    kl[r] = mean((seen.exp() * (seen - truth)).sum(1));
    overlap[r] = mean(std::get<1>(seen.topk(top, 1)).unsqueeze(2).eq(true_top.unsqueeze(1)).any(2));
    accuracy[r] = mean(seen.slice(0, 0, -1).argmax(1).eq(targets));
  }
  return {{prefix + "lens_overlap", {overlap, {}}}, {prefix + "lens_kl", {kl, {}}}, {prefix + "early_exit_accuracy", {accuracy, {}}}};
}

std::int64_t lens_passes(const Subject& subject, const LensTraining& training) { return subject.calls() * training.steps; }

Lens train_lens(const Subject& subject, const std::vector<TokenIds>& texts, const LensTraining& training, std::uint64_t seed, Work& work) {
  const torch::NoGradGuard no_grad;
  std::size_t tokens = 0;
  for (const TokenIds& ids : texts) tokens += ids.size();
  if (tokens < kFewestTokens) {
    throw InputError(fmt::format("texts for the tuned lens: found {} tokens; allowed: at least {}", tokens, kFewestTokens));
  }
  const std::vector<at::Tensor> streams = streams_of(subject, texts, training.most_tokens);
  const std::int64_t all = streams.front().size(0), width = streams.front().size(1), apart = all / 10, learn = all - apart;
  const at::Tensor log_truth_apart = log_probabilities(subject.model, streams.back().narrow(0, learn, apart));
  Lens lens{at::zeros({subject.calls(), width, width}, streams.front().options()),
            at::zeros({subject.calls(), width}, streams.front().options())};
  for (std::int64_t r = 0; r + 1 < subject.calls(); ++r) {
    const at::Tensor& own = streams[static_cast<std::size_t>(r)];
    const auto [map, bias] = nearest_map(own.narrow(0, 0, learn), streams.back().narrow(0, 0, learn), training.ridge);
    Tuning tuning(subject.model, training, map, bias);
    const Permutation order(stream_key(seed, fmt::format("analysis/lens/{}", r)), learn);
    for (std::int64_t step = 0; step < training.steps; ++step) {
      std::vector<std::int64_t> rows;
      for (std::int64_t i = 0; i < std::min(training.batch, learn); ++i) rows.push_back(order((step * training.batch + i) % learn));
      const at::Tensor chosen = torch::tensor(rows, torch::kLong).to(subject.device);
      tuning.step(own.index_select(0, chosen), log_probabilities(subject.model, streams.back().index_select(0, chosen)));
      work.did(1);
    }
    const at::Tensor h_apart = own.narrow(0, learn, apart);
    double best = cross_entropy(subject.model, log_truth_apart, h_apart).item<double>();
    for (const auto& [candidate, offset] : {std::pair{map, bias}, std::pair{tuning.map(), tuning.bias()}}) {
      const double loss = cross_entropy(subject.model, log_truth_apart, apply(candidate, offset, h_apart)).item<double>();
      if (!(loss < best)) continue;
      best = loss;
      lens.maps[r] = candidate;
      lens.biases[r] = offset;
    }
  }
  work.did(training.steps);  // of the last call, which needs none
  return lens;
}

at::Tensor EarlyExit::leaving(const nn::CallContext& call, const at::Tensor&, const at::Tensor& output_ND) {
  if (call.depth_index == call_) kept_ND_ = lens_.translated(call_, output_ND);
  return call.depth_index == last_ ? kept_ND_ : output_ND;
}

}  // namespace meristem
