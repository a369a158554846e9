#include "analysis/recording.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"

namespace meristem {
namespace {

class Recorder : public nn::CallObserver {
 public:
  explicit Recorder(Recording& out) : out_(out) {}
  at::Tensor entering(const nn::CallContext&, const at::Tensor& h_ND) override {
    out_.streams.push_back(h_ND);
    out_.calls.emplace_back();
    return h_ND;
  }
  at::Tensor mixed(const nn::CallContext&, std::size_t, const at::Tensor&, const at::Tensor& after_ND) override {
    out_.calls.back().between.push_back(after_ND);
    return after_ND;
  }
  at::Tensor leaving(const nn::CallContext&, const at::Tensor& input_ND, const at::Tensor& output_ND) override {
    out_.calls.back().input = input_ND;
    out_.calls.back().output = output_ND;
    return output_ND;
  }
  void chose(const nn::CallContext&, const at::Tensor& chosen_Nk, std::int64_t experts) override {
    out_.calls.back().chosen_Tk = chosen_Nk;
    out_.calls.back().experts = experts;
  }
  void attended_depth(const nn::CallContext&, const std::function<at::Tensor()>& weights_NHM) override {
    out_.calls.back().depth_weights_M = weights_NHM().to(at::kDouble).mean(at::IntArrayRef{0, 1}).cpu();
  }

 private:
  Recording& out_;
};

}  // namespace

std::vector<std::string> Subject::mixers() const {
  std::vector<std::string> names;
  for (std::int64_t call = 0; call < calls(); ++call) {
    for (const ModelPart& part : model.parts(block(call))) {
      if (std::find(names.begin(), names.end(), part.name) == names.end()) names.push_back(part.name);
    }
  }
  return names;
}

std::int64_t Subject::mixer_of(std::int64_t call, const std::string& name) const {
  const std::vector<ModelPart> parts = model.parts(block(call));
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const ModelPart& part) { return part.name == name; });
  return found == parts.end() ? -1 : found - parts.begin();
}

Measurements stacked(const std::vector<Measurements>& of_texts) {
  Measurements out;
  for (const auto& [name, first] : of_texts.front()) {
    std::vector<at::Tensor> values;
    std::map<std::string, std::vector<at::Tensor>> variants;
    for (const Measurements& of_text : of_texts) {
      const Measured& own = of_text.at(name);
      values.push_back(own.values);
      for (const auto& [variant, own_values] : own.variants) variants[variant].push_back(own_values);
    }
    out[name].values = at::stack(values);
    for (const auto& [variant, all] : variants) out[name].variants[variant] = at::stack(all);
  }
  return out;
}

Batch batch_of(const std::vector<TokenIds>& texts, at::Device device) {
  TokenIds tokens, targets, positions;
  Batch batch;
  for (const TokenIds& ids : texts) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    targets.insert(targets.end(), ids.begin() + 1, ids.end());
    targets.push_back(-1);
    for (std::size_t t = 0; t < ids.size(); ++t) positions.push_back(static_cast<std::int32_t>(t));
    batch.documents.lengths.push_back(static_cast<std::int64_t>(ids.size()));
  }
  const auto ints = [&](const TokenIds& values) { return torch::tensor(values, torch::kInt).to(device); };
  batch.tokens_N = ints(tokens);
  batch.targets_N = ints(targets);
  batch.positions_N = ints(positions);
  return batch;
}

Batch batch_of(const TokenIds& ids, std::int64_t copies, at::Device device) {
  return batch_of(std::vector<TokenIds>(static_cast<std::size_t>(copies), ids), device);
}

void check_texts(const std::vector<TokenIds>& texts, std::int64_t vocab_size, std::size_t least) {
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size() < least) {
      throw InputError(fmt::format("text {}: found {} tokens; allowed: at least {} for what is to be measured", i, texts[i].size(), least));
    }
    for (const std::int32_t id : texts[i]) {
      if (id < 0 || id >= vocab_size)
        throw InputError(fmt::format("text {}: token id {} is outside the vocabulary of {}", i, id, vocab_size));
    }
  }
}

Recording record(const Subject& subject, const Batch& batch) {
  const torch::NoGradGuard no_grad;
  Recording out;
  Recorder recorder(out);
  const Observing observing(subject.model, &recorder);
  const at::Tensor last = subject.model.stream(batch, subject.plan);  // which fills the others first
  out.streams.push_back(last);
  return out;
}

}  // namespace meristem
