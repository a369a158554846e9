// How long an update takes on many ranks, from a model of buckets and links instead of a clock: one rank is walked through an update on
// paper, all of them being alike. docs/forecast.md has the formulas, what they leave out, and how they compare with measurements.
#pragma once

#include <cstdint>
#include <vector>

namespace meristem {

// What carries the bytes of one rank. Rates in bytes per second and direction, latencies in seconds.
struct Links {
  std::int64_t node_size = 8;  // ranks of one machine
  double node_all_reduce = 0;  // reached inside a machine: an all-reduce, counted as 2 (n-1)/n of its bytes for each rank
  double node_shards = 0;      // likewise reduce-scatter and all-gather, counted as (n-1)/n
  double network = 0;          // of one rank, between machines
  // From the table that NCCL chooses its algorithms by (LL128, ring).
  double start = 14e-6, node_hop = 1.9e-6, network_hop = 4e-6;
};

enum class Collective { kAllReduce, kReduceScatter, kAllGather };

// `bytes`: the whole buffer, which every rank has before an all-reduce and after an all-gather. Inside a machine a ring; between machines a
// ring of those that have the same place in theirs, each with its part of the buffer; an all-reduce takes a tree there where that is
// faster. Machines that are not full make one flat ring over the network. 0 for one rank.
double collective_seconds(Collective collective, double bytes, std::int64_t ranks, const Links& links);

// What is run for a token, in FLOPs.
struct CallFlops {
  double forward = 0, backward = 0;
};

// Parameters whose gradients become complete at the same place of backward.
struct GradientGroup {
  double elements = 0;
  std::int64_t complete = -1;   // by the backward of this call; the number of calls: before it begins; -1: at its very end
  std::int64_t first_use = -1;  // by this call, or by the head (the number of calls), or before the first (-1)
  bool at_once = false;         // when the call ends, else one after another while it runs
};

// An update's work on one rank.
struct UpdateWork {
  std::vector<CallFlops> calls;  // in the order of forward
  CallFlops head;
  std::vector<GradientGroup> groups;
  double micro_batch_tokens = 0;
  std::int64_t micro_batches = 1;
  double flops_per_second = 0;
  double optimizer_seconds = 0;    // of an optimizer that updates all parameters
  double indivisible_seconds = 0;  // part of it that one rank does alone at least: a matrix of Muon has one owner
};

// How gradients and weights travel: the config's section `parallel`.
struct Exchange {
  bool shard_optimizer = true;
  double bucket_elements = 8 << 20;  // a bucket is full with so many
  double gradient_bytes = 4;         // of an element on the wire
  double weight_bytes = 4;           // likewise, when updated weights are gathered
};

struct UpdateForecast {
  double compute = 0;        // seconds of forward and backward
  double optimizer = 0;      // of the optimizer
  double exposed = 0;        // that the rank waits for communication
  double communication = 0;  // that its links are busy, hidden time included
  std::int64_t buckets = 0;
  double step() const { return compute + optimizer + exposed; }
};

// One of many equal updates in a row. Only the last micro-batch communicates: each bucket is reduced, one after another, once its gradients
// are complete. With a sharded optimizer it is reduce-scattered; the next update begins by gathering the weights, bucket by bucket in the
// order of forward, and a call waits for those that it reads.
UpdateForecast forecast_update(const UpdateWork& work, std::int64_t ranks, const Exchange& exchange, const Links& links);

}  // namespace meristem
