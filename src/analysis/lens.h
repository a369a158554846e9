// What the model would say if it stopped behind a call: the stream there, read by the model's own end.
//   logit lens  read_out(h)
//   tuned lens  read_out(h + A h + b), A and b of each call trained so that the answer is the model's (Belrose et al., 2303.08112)
// Behind the last call both are the model itself.
#pragma once

#include "analysis/recording.h"

namespace meristem {

// Affine maps by call, [R, D, D] and [R, D]; undefined: the logit lens.
struct Lens {
  at::Tensor maps, biases;
  at::Tensor translated(std::int64_t call, const at::Tensor& h_ND) const;
};

// Means over the tokens of a text, [calls], under lens_overlap and so on, behind `prefix`:
//   lens_overlap         |top 5 of the lens and of the model| / 5
//   lens_kl              sum p (log p - log q), p by the lens and q by the model, nats
//   early_exit_accuracy  whether the lens's first choice is the token that follows
Measurements measure_lens(const Subject& subject, const Lens& lens, const TokenIds& text, const Recording& recording,
                          const std::string& prefix = "");

struct LensTraining {
  std::int64_t most_tokens = 8192;  // of the texts; a tenth of them decides when the map is best
  std::int64_t steps = 100, batch = 256;
  double learning_rate = 1e-3;
  double ridge = 1e-3;  // of the least squares that it starts from, relative to the stream's variance
};
// Trained on texts that nothing is measured on. Starts from the affine map nearest to the last stream in the mean square, goes on by Adam
// on KL(model | lens), and keeps, for each call, the best of the identity, that start and the end on tokens held apart. InputError where
// the texts have fewer than 64 tokens.
Lens train_lens(const Subject& subject, const std::vector<TokenIds>& texts, const LensTraining& training, std::uint64_t seed, Work& work);
std::int64_t lens_passes(const Subject& subject, const LensTraining& training);

// Makes the model stop behind a call: what leaves the plan's last call is the stream behind `call`, translated. With a plan that ends
// there, nothing is computed in vain.
class EarlyExit : public nn::CallObserver {
 public:
  EarlyExit(std::int64_t call, std::int64_t last, const Lens& lens) : call_(call), last_(last), lens_(lens) {}
  at::Tensor leaving(const nn::CallContext& call, const at::Tensor& input_ND, const at::Tensor& output_ND) override;

 private:
  std::int64_t call_, last_;
  const Lens& lens_;
  at::Tensor kept_ND_;
};

}  // namespace meristem
