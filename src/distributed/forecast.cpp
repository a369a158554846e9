#include "distributed/forecast.h"

#include <algorithm>
#include <cmath>

namespace meristem {
namespace {

// A ring or a tree of `ranks` over links of one kind.
double level_seconds(Collective collective, double bytes, std::int64_t ranks, double rate, double hop) {
  const auto n = static_cast<double>(ranks);
  const double pass = (n - 1) * hop + (n - 1) / n * bytes / rate;
  return collective == Collective::kAllReduce ? 2 * pass : pass;
}

double network_seconds(Collective collective, double bytes, std::int64_t ranks, const Links& links) {
  const double ring = level_seconds(collective, bytes, ranks, links.network, links.network_hop);
  if (collective != Collective::kAllReduce) return ring;
  const double tree = 2 * std::ceil(std::log2(static_cast<double>(ranks))) * links.network_hop + 2 * bytes / links.network;
  return std::min(ring, tree);
}

// One rank's way through an update.
class Walk {
 public:
  Walk(const UpdateWork& work, std::int64_t ranks, const Exchange& exchange, const Links& links)
      : work_(work), ranks_(ranks), exchange_(exchange), links_(links), calls_(std::ssize(work.calls)) {
    lay_out_backward();
  }

  UpdateForecast run() {
    double forward = seconds_of(work_.head.forward);
    for (const CallFlops& call : work_.calls) forward += seconds_of(call.forward);
    UpdateForecast result;
    result.compute = static_cast<double>(work_.micro_batches) * (forward + backward_end_);
    result.optimizer = work_.optimizer_seconds;
    if (ranks_ == 1) return result;
    // The clock starts when the update before has changed the weights.
    double now = exchange_.sharded ? forward_behind_gathers() : forward;
    now += result.compute - forward - backward_end_;  // later micro-batches, and all backwards but the last
    const double end = reduced_after(now);
    const double sums = communicate(Collective::kAllReduce, 0);
    result.exposed = end + sums - result.compute;
    result.communication = busy_;
    return result;
  }

 private:
  double seconds_of(double flops_per_token) const { return flops_per_token * work_.micro_batch_tokens / work_.flops_per_second; }
  double communicate(Collective collective, double bytes) {
    const double seconds = collective_seconds(collective, bytes, ranks_, links_);
    busy_ += seconds;
    return seconds;
  }

  void lay_out_backward() {
    starts_.resize(work_.calls.size());
    ends_.resize(work_.calls.size());
    double at = seconds_of(work_.head.backward);
    for (std::int64_t r = calls_ - 1; r >= 0; --r) {
      const auto i = static_cast<std::size_t>(r);
      starts_[i] = at;
      ends_[i] = at += seconds_of(work_.calls[i].backward);
    }
    backward_end_ = at;
  }

  // Seconds after backward began.
  double complete(const GradientBucket& bucket) const {
    if (bucket.complete_in < 0) return backward_end_;
    if (bucket.complete_in >= calls_) return seconds_of(work_.head.backward);
    const auto call = static_cast<std::size_t>(bucket.complete_in);
    return starts_[call] + bucket.share * (ends_[call] - starts_[call]);
  }

  // The end of the first micro-batch's forward, whose calls wait for their weights.
  double forward_behind_gathers() {
    std::vector<double> arrives(static_cast<std::size_t>(calls_ + 2));  // what users -1, 0, …, the head wait for
    for (auto bucket = work_.buckets.rbegin(); bucket != work_.buckets.rend(); ++bucket) {
      link_free_ += communicate(Collective::kAllGather, bucket->elements * exchange_.weight_bytes);
      arrives[static_cast<std::size_t>(bucket->first_use + 1)] = link_free_;
    }
    double now = arrives[0];
    for (std::size_t r = 0; r < work_.calls.size(); ++r) now = std::max(now, arrives[r + 1]) + seconds_of(work_.calls[r].forward);
    return std::max(now, arrives.back()) + seconds_of(work_.head.forward);
  }

  // When backward, which begins at `begin`, and the reductions of its buckets are done.
  double reduced_after(double begin) {
    const bool to_owners = exchange_.sharded && exchange_.reduces_to_owners;
    const auto collective = to_owners ? Collective::kReduceScatter : Collective::kAllReduce;
    for (const GradientBucket& bucket : work_.buckets) {
      link_free_ = std::max(link_free_, begin + complete(bucket)) + communicate(collective, bucket.elements * exchange_.gradient_bytes);
    }
    return std::max(begin + backward_end_, link_free_);
  }

  const UpdateWork& work_;
  std::int64_t ranks_;
  const Exchange& exchange_;
  const Links& links_;
  std::int64_t calls_;
  std::vector<double> starts_, ends_;  // of each call's backward, in seconds after backward began
  double backward_end_ = 0;
  double link_free_ = 0, busy_ = 0;
};

}  // namespace

double collective_seconds(Collective collective, double bytes, std::int64_t ranks, const Links& links) {
  if (ranks <= 1) return 0;
  const bool full = ranks <= links.node_size || ranks % links.node_size == 0;
  const std::int64_t inside = full ? std::min(ranks, links.node_size) : 1, machines = ranks / inside;
  double seconds = links.start;
  if (inside > 1) {
    const double rate = collective == Collective::kAllReduce ? links.node_all_reduce : links.node_shards;
    seconds += level_seconds(collective, bytes, inside, rate, links.node_hop);
  }
  if (machines > 1) seconds += network_seconds(collective, bytes / static_cast<double>(inside), machines, links);
  return seconds;
}

UpdateForecast forecast_update(const UpdateWork& work, std::int64_t ranks, const Exchange& exchange, const Links& links) {
  return Walk(work, ranks, exchange, links).run();
}

}  // namespace meristem
