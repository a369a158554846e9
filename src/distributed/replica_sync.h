// Keeps the ranks' copies of one model the same. Gradients are summed bucket by bucket while the last micro-batch's backward still runs;
// where the optimizer is sharded (ZeRO-1, 1910.02054), updated weights come back from their owners while the next forward already runs.
//
//   backward   | head | block 3 | block 2 | block 1 | block 0 | embedding |
//   buckets            | 0 ...    | 1 ...     | 2 ...              | 3 ... |        sum
//   forward    | embedding | block 0 | block 1 | block 2 | block 3 | head |
//   buckets  3 ...   | 2 ...   | 1 ...    | 0 ...                                  gather
//
// A block that a loop calls many times is ready once: autograd sums what its calls gave before the hook hears of it. A parameter that
// backward did not reach (a truncated loop) is never told: its bucket goes out after backward. Buckets go out in one order on all ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distributed/ranks.h"
#include "ops/paths.h"
#include "optim/flat_parameters.h"

namespace meristem {

class ReplicaSync {
 public:
  // Both outlive it. `parameters` are laid out for ranks.size() ranks.
  ReplicaSync(FlatParameters& parameters, Ranks& ranks, const ParallelConfig& config);
  ~ReplicaSync();
  ReplicaSync(const ReplicaSync&) = delete;
  ReplicaSync& operator=(const ReplicaSync&) = delete;

  // From now on a bucket goes out as soon as backward has the last of its gradients. Call it before the last backward of an update.
  void arm();
  // Sends what has not gone out, and waits. Then grad() holds the sums over ranks: all of them, or those of the own pieces.
  void finish_gradients();
  // Of the sums, what this rank's pieces add to the squared norm: [] float64. The same whether the optimizer is sharded or not.
  at::Tensor own_squares(ops::Path path) const;

  // Starts to bring updated weights back; nothing where every rank updated all of them. Whoever reads weights waits first:
  void gather_weights();
  // for those of a part of the model and of all before it (FlatEntry::part),
  void await_weights(std::int64_t part);
  // or for all.
  void await_weights() { await_weights(kLastPart); }

  // Compares bits on all ranks: "rank 2 differs from rank 0 in blocks.3.attention.qkv.weight", or empty. Waits.
  std::string difference();

 private:
  struct Bucket {
    FlatBucket flat;
    std::size_t waits_for = 0;  // gradients
    at::Tensor wire;            // bf16: what travels
    Pending sum, gather;
  };
  void told(std::size_t entry);
  void send_next();
  at::Tensor part_of(const at::Tensor& flat, const FlatBucket& bucket) const { return flat.narrow(0, bucket.offset, bucket.count); }
  void share_fp32_weights();

  FlatParameters& parameters_;
  Ranks& ranks_;
  ParallelConfig config_;
  std::vector<Bucket> buckets_;                         // in the order of backward
  std::vector<FlatPiece> owned_;                        // by this rank, where the optimizer is sharded
  std::vector<std::vector<std::size_t>> buckets_with_;  // by entry
  std::size_t next_ = 0;                                // bucket to go out
  std::size_t gathered_ = 0;                            // buckets from the end whose weights are here
};

// Whether a run shards its optimizer, and the pieces that a rank owns then.
inline bool shards_optimizer(const ParallelConfig& config, const Ranks& ranks) { return config.shard_optimizer && ranks.several(); }
std::vector<FlatPiece> owned_pieces(const FlatLayout& layout, const ParallelConfig& config, const Ranks& ranks);

}  // namespace meristem
