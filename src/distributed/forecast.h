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

// Gradients that travel together.
struct GradientBucket {
  double elements = 0;
  // Complete when the backward of this call has run that share; the number of calls: before the last call's begins; -1: at its very end.
  std::int64_t complete_in = -1;
  double share = 1;
  // The first call that reads a weight of it; the number of calls: the head; -1: before the first call.
  std::int64_t first_use = -1;
};

// An update's work on one rank.
struct UpdateWork {
  std::vector<CallFlops> calls;  // in the order of forward
  CallFlops head;
  std::vector<GradientBucket> buckets;  // in the order in which they go out
  double micro_batch_tokens = 0;
  std::int64_t micro_batches = 1;
  double flops_per_second = 0;
  double optimizer_seconds = 0;  // of the rank that has most to update
};

// How gradients and weights travel.
struct Exchange {
  bool sharded = true;
  bool reduces_to_owners = true;  // false: an engine without a reduce-scatter, as Gloo is; the sums reach all ranks
  double gradient_bytes = 4;      // of an element on the wire
  double weight_bytes = 4;        // likewise, when updated weights are gathered
};

struct UpdateForecast {
  double compute = 0;        // seconds of forward and backward
  double optimizer = 0;      // of the optimizer
  double exposed = 0;        // that the rank waits for communication
  double communication = 0;  // that its links are busy, hidden time included
  double step() const { return compute + optimizer + exposed; }
};

// One of many equal updates in a row. Only the last micro-batch communicates: buckets are summed one after another, each once its gradients
// are complete. With a sharded optimizer the sums go to their owners alone, and the next update begins by gathering the weights, the
// buckets in the opposite order; a call waits for those that it reads. A small vector makes every rank's sums and norm known.
UpdateForecast forecast_update(const UpdateWork& work, std::int64_t ranks, const Exchange& exchange, const Links& links);

}  // namespace meristem
