#include "distributed/replica_sync.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include "ops/adamw.h"

namespace meristem {
std::vector<FlatPiece> owned_pieces(const FlatLayout& layout, const ParallelConfig& config, const Ranks& ranks) {
  std::vector<FlatPiece> own;
  if (!shards_optimizer(config, ranks)) return own;
  for (const FlatBucket& bucket : buckets_of(layout, ranks.size(), config.bucket_mb)) {
    for (const FlatPiece& piece : bucket.pieces) {
      if (piece.owner == ranks.rank()) own.push_back(piece);
    }
  }
  std::sort(own.begin(), own.end(), [](const FlatPiece& a, const FlatPiece& b) { return a.offset < b.offset; });
  return own;
}

ReplicaSync::ReplicaSync(FlatParameters& parameters, Ranks& ranks, const ParallelConfig& config)
    : parameters_(parameters),
      ranks_(ranks),
      config_(config),
      owned_(owned_pieces(parameters.layout(), config, ranks)),
      buckets_with_(parameters.entries().size()) {
  for (FlatBucket& flat : buckets_of(parameters.layout(), ranks.size(), config.bucket_mb)) {
    for (const std::size_t entry : flat.entries) buckets_with_[entry].push_back(buckets_.size());
    Bucket bucket;
    bucket.flat = std::move(flat);
    buckets_.push_back(std::move(bucket));
  }
  next_ = gathered_ = buckets_.size();
}

ReplicaSync::~ReplicaSync() { parameters_.on_gradient({}); }

void ReplicaSync::arm() {
  next_ = 0;
  for (Bucket& bucket : buckets_) bucket.waits_for = bucket.flat.entries.size();
  parameters_.on_gradient([this](std::size_t entry) { told(entry); });
}

void ReplicaSync::told(std::size_t entry) {
  for (const std::size_t bucket : buckets_with_[entry]) --buckets_[bucket].waits_for;
  while (next_ < buckets_.size() && buckets_[next_].waits_for == 0) send_next();
}

void ReplicaSync::send_next() {
  torch::NoGradGuard no_grad;
  Bucket& bucket = buckets_[next_++];
  at::Tensor x = part_of(parameters_.grad(), bucket.flat);
  if (config_.reduce == Wire::kBf16) x = bucket.wire = x.to(at::kBFloat16);
  bucket.sum = shards_optimizer(config_, ranks_) ? ranks_.sum_to_owners(x, bucket.flat) : ranks_.sum(x);
}

void ReplicaSync::finish_gradients() {
  parameters_.on_gradient({});
  while (next_ < buckets_.size()) send_next();
  torch::NoGradGuard no_grad;
  for (Bucket& bucket : buckets_) {
    bucket.sum.wait();
    if (!bucket.wire.defined()) continue;
    part_of(parameters_.grad(), bucket.flat).copy_(bucket.wire);
    bucket.wire.reset();
  }
}

at::Tensor ReplicaSync::own_squares(ops::Path path) const {
  std::vector<at::Tensor> norms;
  for (const Bucket& bucket : buckets_) {
    for (const FlatPiece& piece : bucket.flat.pieces) {
      if (piece.owner == ranks_.rank()) norms.push_back(ops::gradient_norm(parameters_.grad().narrow(0, piece.offset, piece.count), path));
    }
  }
  if (norms.empty()) return torch::zeros({}, parameters_.grad().options().dtype(at::kDouble));
  return torch::stack(norms).to(at::kDouble).square().sum();
}

void ReplicaSync::gather_weights() {
  if (!shards_optimizer(config_, ranks_)) return;
  torch::NoGradGuard no_grad;
  const at::Tensor weights = parameters_.half().defined() ? parameters_.half() : parameters_.master();
  gathered_ = 0;
  for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
    bucket->gather = ranks_.gather_from_owners(part_of(weights, bucket->flat), bucket->flat);
  }
  if (parameters_.half().defined()) share_fp32_weights();
}

// Norm gains and routers are read from the fp32 masters, which only their owners have updated. They are few.
void ReplicaSync::share_fp32_weights() {
  std::vector<at::Tensor> weights;
  for (const FlatEntry& entry : parameters_.entries()) {
    if (entry.stays_fp32) weights.push_back(parameters_.master(entry.offset, entry.count));
  }
  if (weights.empty()) return;
  std::vector<std::int64_t> counts;
  for (const at::Tensor& part : weights) counts.push_back(part.numel());
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  const at::Tensor joined = torch::zeros({total}, weights.front().options());
  const std::vector<at::Tensor> parts = joined.split_with_sizes(counts);
  std::size_t next = 0;
  for (const FlatEntry& entry : parameters_.entries()) {
    if (!entry.stays_fp32) continue;
    const std::size_t here = next++;
    for (const FlatPiece& piece : owned_) {
      const std::int64_t begin = std::max(entry.offset, piece.offset),
                         end = std::min(entry.offset + entry.count, piece.offset + piece.count);
      if (begin < end) parts[here].narrow(0, begin - entry.offset, end - begin).copy_(parameters_.master(begin, end - begin));
    }
  }
  ranks_.join_bits(joined);
  at::_foreach_copy_(weights, parts);
}

void ReplicaSync::await_weights(std::int64_t part) {
  for (; gathered_ < buckets_.size(); ++gathered_) {
    Bucket& bucket = buckets_[buckets_.size() - 1 - gathered_];
    if (bucket.flat.first_part > part) return;
    bucket.gather.wait();
  }
}

std::string ReplicaSync::difference() {
  await_weights();
  torch::NoGradGuard no_grad;
  // Two sums of a tensor's bits, one of them weighted by place, so that neither a changed nor a moved value escapes. Integers wrap alike.
  std::vector<at::Tensor> sums;
  for (const FlatEntry& entry : parameters_.entries()) {
    const bool half = parameters_.half().defined() && !entry.stays_fp32;
    const at::Tensor flat = half ? parameters_.half().narrow(0, entry.offset, entry.count) : parameters_.master(entry.offset, entry.count);
    const at::Tensor bits = flat.view(half ? at::kShort : at::kInt).to(at::kLong);
    const at::Tensor place = torch::arange(entry.count, bits.options());
    sums.push_back(bits.sum());
    sums.push_back((bits * (place * 2654435761 + 1)).sum());
  }
  const at::Tensor mine = torch::stack(sums);
  const at::Tensor all = torch::zeros({ranks_.size(), mine.numel()}, mine.options());
  all[ranks_.rank()].copy_(mine);
  ranks_.sum(all).wait();
  const at::Tensor differs = all.ne(all[0].unsqueeze(0)).cpu();
  for (std::int64_t i = 0; i < mine.numel(); ++i) {
    for (int rank = 1; rank < ranks_.size(); ++rank) {
      if (!differs[rank][i].item<bool>()) continue;
      return fmt::format("rank {} differs from rank 0 in {}", rank, parameters_.entries()[static_cast<std::size_t>(i / 2)].name);
    }
  }
  return "";
}

}  // namespace meristem
