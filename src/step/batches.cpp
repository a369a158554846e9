#include "step/batches.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <torch/torch.h>

namespace meristem {
namespace {

bool one_document_a_sequence(const HostBatch& batch) {
  if (static_cast<std::int64_t>(batch.boundaries.size()) != batch.sequences + 1) return false;
  for (std::size_t i = 0; i < batch.boundaries.size(); ++i) {
    if (batch.boundaries[i] != static_cast<std::int32_t>(static_cast<std::int64_t>(i) * batch.length)) return false;
  }
  return true;
}

std::int64_t words_of(const HostBatch& batch) {
  return 3 * batch.sequences * batch.length + batch.sequences + document_capacity(batch) + 1;
}

// inputs, targets, positions, source, then the documents' starts, N as often as room is left.
void pack(const HostBatch& batch, std::int32_t* to) {
  for (const auto* part : {&batch.inputs, &batch.targets, &batch.positions, &batch.source, &batch.boundaries}) {
    to = std::copy(part->begin(), part->end(), to);
  }
  const auto left = document_capacity(batch) + 1 - static_cast<std::int64_t>(batch.boundaries.size());
  std::fill_n(to, left, batch.boundaries.back());
}

// Views of words that are packed, with the first `starts` of the documents' starts.
DeviceBatch views_of(const HostBatch& batch, const at::Tensor& words, std::int64_t starts) {
  const std::int64_t tokens = batch.sequences * batch.length;
  DeviceBatch views;
  views.batch.tokens_N = words.narrow(0, 0, tokens);
  views.batch.targets_N = words.narrow(0, tokens, tokens);
  views.batch.positions_N = words.narrow(0, 2 * tokens, tokens);
  views.source_S = words.narrow(0, 3 * tokens, batch.sequences);
  views.batch.documents.offsets = words.narrow(0, 3 * tokens + batch.sequences, starts);
  return views;
}

}  // namespace

DeviceBatch to_device(const HostBatch& host, at::Device device) {
  const at::Tensor words = torch::empty({words_of(host)}, torch::dtype(torch::kInt).pinned_memory(device.is_cuda()));
  pack(host, words.data_ptr<std::int32_t>());
  DeviceBatch out = views_of(host, words.to(device, /*non_blocking=*/device.is_cuda()), static_cast<std::int64_t>(host.boundaries.size()));
  for (std::size_t i = 1; i < host.boundaries.size(); ++i) {
    out.batch.documents.lengths.push_back(host.boundaries[i] - host.boundaries[i - 1]);
  }
  out.batch.documents.whole_rows = one_document_a_sequence(host);
  out.batch.documents.longest = host.length;
  return out;
}

std::vector<DeviceBatch> shares_of(const HostBatch& host, std::int64_t shares, at::Device device) {
  if (shares == 1) return {to_device(host, device)};
  std::vector<DeviceBatch> out;
  for (std::int64_t s = 0; s < shares; ++s) {
    out.push_back(to_device(rows_of(host, s * host.sequences / shares, (s + 1) * host.sequences / shares), device));
  }
  return out;
}

std::int64_t document_capacity(const HostBatch& batch) {
  if (one_document_a_sequence(batch)) return batch.sequences;
  const auto documents = batch.boundaries.size() - 1;
  return static_cast<std::int64_t>(std::bit_ceil(std::max<std::size_t>(documents, 8)));
}

StaticInputs& InputPipeline::inputs_of(const HostBatch& batch) {
  const bool uniform = one_document_a_sequence(batch);
  std::string shape = fmt::format("{}x{}", batch.sequences, batch.length);
  if (!uniform) shape += fmt::format(", {} documents", document_capacity(batch));
  const auto [found, fresh] = inputs_.try_emplace(shape);
  StaticInputs& buffers = found->second;
  if (!fresh) return buffers;
  buffers.shape = shape;
  buffers.words = torch::empty({words_of(batch)}, torch::dtype(torch::kInt).device(device_));
  buffers.inputs = views_of(batch, buffers.words, document_capacity(batch) + 1);
  // Lengths are the host's: with documents they change from batch to batch, and only what reads the offsets may run. No document goes
  // beyond its row.
  ops::Documents& documents = buffers.inputs.batch.documents;
  documents.longest = batch.length;
  documents.whole_rows = uniform;
  if (uniform) documents.lengths = ops::Documents::uniform(batch.sequences, batch.length).lengths;
  return buffers;
}

const StaticInputs& InputPipeline::load(const HostBatch& batch) {
  const int slot = next_;
  next_ = 1 - next_;
  const std::int64_t words = words_of(batch);
  pack(batch, copies_->host(slot, words));
  copies_->send(slot, words);
  const StaticInputs& buffers = inputs_of(batch);
  copies_->take(slot, buffers.words);
  return buffers;
}

}  // namespace meristem
