#include "analysis/effects.h"

#include <algorithm>
#include <limits>

#include <torch/torch.h>

#include "core/counter_rng.h"

namespace meristem {
namespace {

constexpr double kLeastNorm = 1e-6;           // that a change is divided by
constexpr std::int64_t kTokensAtOnce = 8192;  // of a batch
constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// A copy of the text in a batch: the contribution of `call` is missing in tokens [1, boundary).
struct Cut {
  std::int64_t call = 0, boundary = 0;
};

// A text without interventions: what the copies are compared with.
struct Truth {
  TokenIds ids;
  Recording recording;
  std::vector<at::Tensor> added, norms;  // by call: [T, D], [T]
  at::Tensor probabilities_TV;

  Truth(const Subject& subject, const TokenIds& text) : ids(text), recording(record(subject, batch_of(text, 1, subject.device))) {
    for (const Recording::Call& call : recording.calls) {
      added.push_back(call.added());
      norms.push_back(added.back().norm(2, 1).clamp_min(kLeastNorm));
    }
    probabilities_TV = subject.model.read_out(recording.streams.back()).to(at::kFloat).softmax(1);
  }
};

// Runs K copies of a text at once, each with its own cut. Rows are K times T.
class Cutting : public nn::CallObserver {
 public:
  // mixer: by name, or "" for whole calls.
  Cutting(const Subject& subject, Effect effect, const Truth& truth, const std::string& mixer, const std::vector<Cut>& cuts,
          std::int64_t tokens)
      : effect_(effect), truth_(truth), tokens_(tokens), copies_(static_cast<std::int64_t>(cuts.size())) {
    std::vector<std::int64_t> calls, boundaries;
    for (const Cut& cut : cuts) {
      calls.push_back(cut.call);
      boundaries.push_back(cut.boundary);
    }
    for (std::int64_t r = 0; r < subject.calls(); ++r) mixers_.push_back(mixer.empty() ? -1 : subject.mixer_of(r, mixer));
    whole_ = mixer.empty();
    const auto column = [&](const std::vector<std::int64_t>& values) { return torch::tensor(values, torch::kLong).to(subject.device); };
    calls_K1_ = column(calls).unsqueeze(1);
    const at::Tensor position_T = at::arange(tokens, calls_K1_.options()), boundary_K1 = column(boundaries).unsqueeze(1);
    cut_KT_ = (position_T >= 1).logical_and(position_T < boundary_K1);
    before_KT_ = position_T < boundary_K1;
    if (effect == Effect::kLocal) contributions_KTD_ = contributions(calls);
    changes_KR_ = at::full({copies_, subject.calls()}, kUndefined, torch::dtype(torch::kDouble));
  }

  at::Tensor entering(const nn::CallContext& call, const at::Tensor& h_ND) override {
    if (effect_ == Effect::kFuture) return h_ND;
    const at::Tensor true_TD = truth_.recording.streams[index(call)];
    const at::Tensor lacks_KT = cut_KT_.logical_and(calls_K1_ < call.depth_index);
    return (true_TD - contributions_KTD_ * lacks_KT.unsqueeze(2)).reshape_as(h_ND);
  }
  at::Tensor mixed(const nn::CallContext& call, std::size_t mixer, const at::Tensor& before_ND, const at::Tensor& after_ND) override {
    return mixers_[index(call)] == static_cast<std::int64_t>(mixer) ? without(call, before_ND, after_ND) : after_ND;
  }
  at::Tensor leaving(const nn::CallContext& call, const at::Tensor& input_ND, const at::Tensor& output_ND) override {
    const at::Tensor changed_KTD = (output_ND - input_ND).view({copies_, tokens_, -1}) - truth_.added[index(call)];
    const at::Tensor relative_KT = changed_KTD.norm(2, 2) / truth_.norms[index(call)];
    const at::Tensor largest_K = relative_KT.masked_fill(before_KT_, 0).amax(1);
    const at::Tensor later_K = (calls_K1_ < call.depth_index).squeeze(1).cpu();
    changes_KR_.select(1, call.depth_index).copy_(at::where(later_K, largest_K.cpu().to(torch::kDouble), kUndefined));
    return whole_ ? without(call, input_ND, output_ND) : output_ND;
  }
  const at::Tensor& changes() const { return changes_KR_; }

 private:
  static std::size_t index(const nn::CallContext& call) { return static_cast<std::size_t>(call.depth_index); }
  // [K, T, D]: what the cut of each copy takes away.
  at::Tensor contributions(const std::vector<std::int64_t>& calls) const {
    std::vector<at::Tensor> out;
    for (const std::int64_t r : calls) {
      const auto at = static_cast<std::size_t>(r);
      const Recording::Call& call = truth_.recording.calls[at];
      out.push_back(whole_ ? truth_.added[at] : mixers_[at] >= 0 ? call.added(mixers_[at]) : at::zeros_like(call.input));
    }
    return at::stack(out);
  }
  at::Tensor without(const nn::CallContext& call, const at::Tensor& before_ND, const at::Tensor& after_ND) const {
    if (effect_ == Effect::kLocal) return after_ND;
    const at::Tensor here_N1 = cut_KT_.logical_and(calls_K1_ == call.depth_index).reshape({-1, 1});
    return at::where(here_N1, before_ND, after_ND);
  }

  Effect effect_;
  const Truth& truth_;
  std::int64_t tokens_, copies_;
  bool whole_ = true;
  std::vector<std::int64_t> mixers_;  // by call; -1: none
  at::Tensor calls_K1_, cut_KT_, before_KT_, contributions_KTD_, changes_KR_;
};

// [K]: the largest change of the next token's probabilities from each copy's boundary on.
at::Tensor output_changes(const Subject& subject, const Truth& truth, const std::vector<Cut>& cuts, const at::Tensor& stream_ND) {
  const std::int64_t tokens = truth.probabilities_TV.size(0);
  std::vector<double> out;
  for (std::size_t k = 0; k < cuts.size(); ++k) {
    const std::int64_t from = cuts[k].boundary, count = tokens - from;
    const at::Tensor stream = stream_ND.narrow(0, static_cast<std::int64_t>(k) * tokens + from, count);
    const at::Tensor probabilities = subject.model.read_out(stream).to(at::kFloat).softmax(1);
    out.push_back((probabilities - truth.probabilities_TV.narrow(0, from, count)).norm(2, 1).max().item<double>());
  }
  return torch::tensor(out, torch::kDouble);
}

// The larger of each two; a NaN gives way.
void keep_largest(const at::Tensor& into, const at::Tensor& value) { into.copy_(at::fmax(into, value)); }

struct OfText {
  at::Tensor changes_RR, outputs_R;
};

OfText measure_text(const Subject& subject, Effect effect, const Truth& truth, const std::string& mixer,
                    const std::vector<std::int64_t>& boundaries, Work& work) {
  const std::int64_t calls = subject.calls(), tokens = static_cast<std::int64_t>(truth.ids.size());
  std::vector<Cut> all;
  for (std::int64_t r = 0; r < calls; ++r) {
    for (const std::int64_t boundary : boundaries) all.push_back({r, boundary});
  }
  OfText out{at::full({calls, calls}, kUndefined, torch::kDouble), at::zeros({calls}, torch::kDouble)};
  const auto at_once = static_cast<std::size_t>(std::max<std::int64_t>(1, kTokensAtOnce / tokens));
  for (std::size_t begin = 0; begin < all.size(); begin += at_once) {
    const std::vector<Cut> cuts(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), begin + at_once)));
    Cutting cutting(subject, effect, truth, mixer, cuts, tokens);
    at::Tensor stream;
    {
      const Observing observing(subject.model, &cutting);
      stream = subject.model.stream(batch_of(truth.ids, static_cast<std::int64_t>(cuts.size()), subject.device), subject.plan);
    }
    const at::Tensor outputs_K = effect == Effect::kFuture ? output_changes(subject, truth, cuts, stream) : at::Tensor();
    for (std::size_t k = 0; k < cuts.size(); ++k) {
      keep_largest(out.changes_RR[cuts[k].call], cutting.changes()[static_cast<std::int64_t>(k)]);
      if (outputs_K.defined()) keep_largest(out.outputs_R[cuts[k].call], outputs_K[static_cast<std::int64_t>(k)]);
    }
    work.did(static_cast<std::int64_t>(cuts.size()));
  }
  return out;
}

}  // namespace

std::vector<std::int64_t> boundaries_of(std::int64_t tokens, std::size_t text, std::uint64_t seed, std::size_t most) {
  std::vector<std::int64_t> possible, out;
  for (std::int64_t t = 8; t < tokens - 4; t += 8) possible.push_back(t);
  if (possible.empty()) return out;
  const Permutation order(stream_key(seed, "analysis/boundaries/" + std::to_string(text)), static_cast<std::int64_t>(possible.size()));
  for (std::size_t i = 0; i < std::min(most, possible.size()); ++i)
    out.push_back(possible[static_cast<std::size_t>(order(static_cast<std::int64_t>(i)))]);
  std::sort(out.begin(), out.end());
  return out;
}

std::int64_t effect_passes(const Subject& subject, const std::vector<std::vector<std::int64_t>>& boundaries) {
  std::int64_t places = 0;
  for (const auto& of_text : boundaries) places += static_cast<std::int64_t>(of_text.size());
  return places * subject.calls() * static_cast<std::int64_t>(1 + subject.mixers().size());
}

Effects measure_effects(const Subject& subject, Effect effect, const std::vector<TokenIds>& texts,
                        const std::vector<std::vector<std::int64_t>>& boundaries, Work& work) {
  const torch::NoGradGuard no_grad;
  std::vector<std::string> parts = subject.mixers();
  parts.emplace_back();
  std::map<std::string, std::vector<at::Tensor>> changes, outputs;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Truth truth(subject, texts[i]);
    for (const std::string& mixer : parts) {
      const OfText of_text = measure_text(subject, effect, truth, mixer, boundaries[i], work);
      changes[mixer].push_back(of_text.changes_RR);
      outputs[mixer].push_back(of_text.outputs_R);
    }
  }
  Effects out;
  for (const std::string& mixer : parts) {
    (mixer.empty() ? out.changes.values : out.changes.variants[mixer]) = at::stack(changes[mixer]);
    if (effect == Effect::kFuture) (mixer.empty() ? out.outputs.values : out.outputs.variants[mixer]) = at::stack(outputs[mixer]);
  }
  return out;
}

}  // namespace meristem
