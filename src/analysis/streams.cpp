#include "analysis/streams.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include <torch/torch.h>

namespace meristem {
namespace {

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

at::Tensor undefined(at::IntArrayRef shape) { return at::full(shape, kNothing, torch::dtype(torch::kDouble)); }

at::Tensor mean_norm(const at::Tensor& x_TD) { return x_TD.to(torch::kDouble).norm(2, 1).mean().cpu(); }

struct Pair {
  at::Tensor added, read;  // [T, D]
  double relative_norm() const {
    const at::Tensor read_norms = read.to(torch::kDouble).norm(2, 1).clamp_min(1e-6);
    return (added.to(torch::kDouble).norm(2, 1) / read_norms).mean().item<double>();
  }
  double cosine() const { return at::cosine_similarity(added.to(torch::kDouble), read.to(torch::kDouble), 1).mean().item<double>(); }
};

// Of a call, or of one of its mixers; none where it has no such mixer.
std::optional<Pair> pair_of(const Subject& subject, const Recording& recording, std::int64_t call, const std::string& mixer) {
  const Recording::Call& made = recording.calls[static_cast<std::size_t>(call)];
  if (mixer.empty()) return Pair{made.added(), made.input};
  const std::int64_t number = subject.mixer_of(call, mixer);
  if (number < 0) return std::nullopt;
  return Pair{made.added(number), made.before(number)};
}

// log of the number of ways to choose k of n.
double log_choose(double n, double k) { return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1); }

// Jaccard overlap of two sets of k, each drawn from E: the mean over the size of what they share.
double overlap_by_chance(std::int64_t experts, std::int64_t active) {
  const double all = static_cast<double>(experts), k = static_cast<double>(active);
  double mean = 0;
  for (std::int64_t shared = std::max<std::int64_t>(0, 2 * active - experts); shared <= active; ++shared) {
    const double j = static_cast<double>(shared);
    mean += std::exp(log_choose(k, j) + log_choose(all - k, k - j) - log_choose(all, k)) * j / (2 * k - j);
  }
  return mean;
}

}  // namespace

Measurements measure_norms(const Subject& subject, const Recording& recording) {
  std::vector<std::string> parts = subject.mixers();
  parts.emplace_back();
  Measured norms, cosines;
  for (const std::string& mixer : parts) {
    const at::Tensor norm = undefined({subject.calls()}), cosine = undefined({subject.calls()});
    for (std::int64_t r = 0; r < subject.calls(); ++r) {
      const auto pair = pair_of(subject, recording, r, mixer);
      if (!pair) continue;
      norm[r] = pair->relative_norm();
      cosine[r] = pair->cosine();
    }
    (mixer.empty() ? norms.values : norms.variants[mixer]) = norm;
    (mixer.empty() ? cosines.values : cosines.variants[mixer]) = cosine;
  }
  std::vector<at::Tensor> residual;
  for (const at::Tensor& h_TD : recording.streams) residual.push_back(mean_norm(h_TD));
  return {{"norms", norms}, {"cosines", cosines}, {"residual_norm", {at::stack(residual), {}}}};
}

Measurements measure_experts(const Subject& subject, const Recording& recording) {
  std::int64_t experts = 0, active = 0;
  std::map<std::int64_t, at::Tensor> by_call, by_block;  // chosen: [T, E] bool
  std::map<std::int64_t, std::int64_t> calls_of_block;
  for (std::int64_t r = 0; r < subject.calls(); ++r) {
    const Recording::Call& call = recording.calls[static_cast<std::size_t>(r)];
    if (call.experts == 0) continue;
    experts = std::max(experts, call.experts);
    active = call.chosen_Tk.size(1);
    ++calls_of_block[subject.block(r)];
    const at::Tensor none = at::zeros({call.chosen_Tk.size(0), call.experts}, call.chosen_Tk.options().dtype(at::kBool));
    by_call[r] = none.scatter(1, call.chosen_Tk, true);
    at::Tensor& of_block = by_block[subject.block(r)];
    of_block = of_block.defined() ? of_block.logical_or(by_call[r]) : by_call[r];
  }
  const at::Tensor counts = undefined({subject.calls(), experts}), overlap = undefined({subject.calls(), subject.calls()});
  for (const auto& [one, chosen] : by_call) {
    counts[one].narrow(0, 0, chosen.size(1)).copy_(chosen.sum(0));
    for (const auto& [other, others] : by_call) {
      if (subject.block(one) != subject.block(other)) continue;
      const at::Tensor both = chosen.logical_and(others).sum(1), either = chosen.logical_or(others).sum(1);
      overlap[one][other] = (both.to(torch::kDouble) / either).mean().item<double>();
    }
  }
  double distinct = 0, drawn = 0;
  const double missed = 1 - static_cast<double>(active) / static_cast<double>(experts);
  for (const auto& [block, chosen] : by_block) {
    distinct += chosen.sum(1).to(torch::kDouble).mean().item<double>();
    drawn += static_cast<double>(experts) * (1 - std::pow(missed, calls_of_block.at(block)));
  }
  const double choices = static_cast<double>(active) * static_cast<double>(by_call.size());
  const at::Tensor overlaps = at::full_like(overlap, overlap_by_chance(experts, active)).fill_diagonal_(1);
  const auto number = [](double value) { return torch::tensor(value, torch::kDouble); };
  return {{"expert_diversity", {number(distinct / choices), {{"by chance", number(drawn / choices)}}}},
          {"expert_overlap", {overlap, {{"by chance", at::where(overlap.isnan(), kNothing, overlaps)}}}},
          {"expert_counts", {counts, {}}}};
}

Measurements measure_depth_attention(const Subject& subject, const Recording& recording) {
  std::int64_t entries = 0;
  for (const Recording::Call& call : recording.calls) {
    if (call.depth_weights_M.defined()) entries = std::max(entries, call.depth_weights_M.size(0));
  }
  if (entries == 0) return {};
  const at::Tensor weights = undefined({subject.calls(), entries});
  for (std::int64_t r = 0; r < subject.calls(); ++r) {
    const at::Tensor& own = recording.calls[static_cast<std::size_t>(r)].depth_weights_M;
    if (own.defined()) weights[r].narrow(0, 0, own.size(0)).copy_(own);
  }
  return {{"depth_attention_weights", {weights, {}}}};
}

Measured weight_products(const Model& model) {
  // "blocks.3.attention.qkv.weight": the block, and the parameter's name in it.
  const std::string prefix = "blocks.";
  std::map<std::string, std::map<std::int64_t, at::Tensor>> matrices;
  std::int64_t blocks = 0;
  for (const ParameterInfo& info : model.parameter_infos()) {
    if (info.name.rfind(prefix, 0) != 0) continue;
    const std::size_t dot = info.name.find('.', prefix.size());
    const std::int64_t block = std::stoll(info.name.substr(prefix.size(), dot - prefix.size()));
    blocks = std::max(blocks, block + 1);
    if (info.tensor.dim() >= 2) matrices[info.name.substr(dot + 1)][block] = info.tensor.detach();
  }
  Measured out{at::zeros({blocks, blocks}, torch::kDouble), {}};
  for (const auto& [name, of_block] : matrices) {
    if (static_cast<std::int64_t>(of_block.size()) != blocks) continue;
    at::Tensor& of_mixer = out.variants[name.substr(0, name.find('.'))];
    if (!of_mixer.defined()) of_mixer = at::zeros_like(out.values);
    for (std::int64_t i = 0; i < blocks; ++i) {
      for (std::int64_t j = i; j < blocks; ++j) {
        const at::Tensor product = at::dot(of_block.at(i).flatten().to(torch::kDouble), of_block.at(j).flatten().to(torch::kDouble)).cpu();
        of_mixer[i][j] += product;
        if (i != j) of_mixer[j][i] += product;
      }
    }
  }
  for (const auto& [mixer, products] : out.variants) out.values += products;
  return out;
}

}  // namespace meristem
