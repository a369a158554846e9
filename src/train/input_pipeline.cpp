#include "train/input_pipeline.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <torch/torch.h>

namespace meristem {
namespace {

bool one_segment_a_sequence(const HostBatch& batch) {
  if (static_cast<std::int64_t>(batch.boundaries.size()) != batch.sequences + 1) return false;
  for (std::size_t i = 0; i < batch.boundaries.size(); ++i) {
    if (batch.boundaries[i] != static_cast<std::int32_t>(static_cast<std::int64_t>(i) * batch.length)) return false;
  }
  return true;
}

std::int64_t words_of(const HostBatch& batch) { return 3 * batch.sequences * batch.length + batch.sequences + segment_capacity(batch) + 1; }

// inputs, targets, positions, source, then the segments' starts, N as often as room is left.
void pack(const HostBatch& batch, std::int32_t* to) {
  for (const auto* part : {&batch.inputs, &batch.targets, &batch.positions, &batch.source, &batch.boundaries}) {
    to = std::copy(part->begin(), part->end(), to);
  }
  const auto left = segment_capacity(batch) + 1 - static_cast<std::int64_t>(batch.boundaries.size());
  std::fill_n(to, left, batch.boundaries.back());
}

}  // namespace

std::int64_t segment_capacity(const HostBatch& batch) {
  if (one_segment_a_sequence(batch)) return batch.sequences;
  const auto documents = batch.boundaries.size() - 1;
  return static_cast<std::int64_t>(std::bit_ceil(std::max<std::size_t>(documents, 8)));
}

StaticInputs& InputPipeline::inputs_of(const HostBatch& batch) {
  const bool uniform = one_segment_a_sequence(batch);
  std::string shape = fmt::format("{}x{}", batch.sequences, batch.length);
  if (!uniform) shape += fmt::format(", {} segments", segment_capacity(batch));
  const auto [found, fresh] = inputs_.try_emplace(shape);
  StaticInputs& inputs = found->second;
  if (!fresh) return inputs;
  const std::int64_t tokens = batch.sequences * batch.length;
  inputs.shape = shape;
  inputs.words = torch::empty({words_of(batch)}, torch::dtype(torch::kInt).device(device_));
  inputs.batch.tokens_N = inputs.words.narrow(0, 0, tokens);
  inputs.batch.targets_N = inputs.words.narrow(0, tokens, tokens);
  inputs.batch.positions_N = inputs.words.narrow(0, 2 * tokens, tokens);
  inputs.source_S = inputs.words.narrow(0, 3 * tokens, batch.sequences);
  inputs.batch.segments.offsets = inputs.words.narrow(0, 3 * tokens + batch.sequences, segment_capacity(batch) + 1);
  // Lengths are the host's: with documents they change from batch to batch, and only what reads the offsets may run.
  if (uniform) inputs.batch.segments.lengths = ops::Segments::uniform(batch.sequences, batch.length).lengths;
  return inputs;
}

const StaticInputs& InputPipeline::load(const HostBatch& batch) {
  const int slot = next_;
  next_ = 1 - next_;
  const std::int64_t words = words_of(batch);
  pack(batch, copies_->host(slot, words));
  copies_->send(slot, words);
  const StaticInputs& inputs = inputs_of(batch);
  copies_->take(slot, inputs.words);
  return inputs;
}

}  // namespace meristem
