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

// Gradients that travel together, in the order of backward.
struct Bucket {
  double elements = 0;
  double ready = 0;                 // seconds after the last backward began
  std::vector<std::int64_t> users;  // the first users of what is in it
};

// One rank's way through an update.
class Walk {
 public:
  Walk(const UpdateWork& work, std::int64_t ranks, const Exchange& exchange, const Links& links)
      : work_(work), ranks_(ranks), exchange_(exchange), links_(links), calls_(std::ssize(work.calls)) {
    lay_out_backward();
    fill_buckets();
  }

  UpdateForecast run() {
    double forward = seconds_of(work_.head.forward);
    for (const CallFlops& call : work_.calls) forward += seconds_of(call.forward);
    UpdateForecast result;
    result.compute = static_cast<double>(work_.micro_batches) * (forward + backward_end_);
    result.optimizer = work_.optimizer_seconds;
    result.buckets = std::ssize(buckets_);
    if (ranks_ == 1) return result;
    const bool sharded = exchange_.shard_optimizer;
    if (sharded) result.optimizer = std::max(result.optimizer / static_cast<double>(ranks_), work_.indivisible_seconds);
    // The clock starts when the update before has changed the weights.
    double now = sharded ? forward_behind_gathers() : forward;
    now += result.compute - forward - backward_end_;  // later micro-batches, and all backwards but the last
    const double end = reduced_after(now);
    const double sums = communicate(Collective::kAllReduce, 0);  // loss, target counts, the norm: one small vector
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

  // When the first `share` of a group's gradients is complete.
  double complete(const GradientGroup& group, double share) const {
    if (group.complete < 0) return backward_end_;
    if (group.complete >= calls_) return seconds_of(work_.head.backward);
    const auto call = static_cast<std::size_t>(group.complete);
    return group.at_once ? ends_[call] : starts_[call] + share * (ends_[call] - starts_[call]);
  }

  void fill_buckets() {
    std::vector<GradientGroup> groups = work_.groups;
    std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.complete > b.complete; });
    for (const GradientGroup& group : groups) {
      for (double taken = 0; taken < group.elements;) {
        if (buckets_.empty() || buckets_.back().elements >= exchange_.bucket_elements) buckets_.emplace_back();
        Bucket& bucket = buckets_.back();
        const double part = std::min(group.elements - taken, exchange_.bucket_elements - bucket.elements);
        // An element more or less is rounding.
        taken = group.elements - taken - part < 1 ? group.elements : taken + part;
        bucket.elements += part;
        bucket.ready = std::max(bucket.ready, complete(group, taken / group.elements));
        bucket.users.push_back(group.first_use);
      }
    }
  }

  // The end of the first micro-batch's forward, whose calls wait for their weights.
  double forward_behind_gathers() {
    std::vector<double> arrives(static_cast<std::size_t>(calls_ + 2));  // what users -1, 0, …, the head wait for
    for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
      link_free_ += communicate(Collective::kAllGather, bucket->elements * exchange_.weight_bytes);
      for (const std::int64_t user : bucket->users) arrives[static_cast<std::size_t>(user + 1)] = link_free_;
    }
    double now = arrives[0];
    for (std::size_t r = 0; r < work_.calls.size(); ++r) now = std::max(now, arrives[r + 1]) + seconds_of(work_.calls[r].forward);
    return std::max(now, arrives.back()) + seconds_of(work_.head.forward);
  }

  // When backward, which begins at `begin`, and the reductions of its buckets are done.
  double reduced_after(double begin) {
    const auto collective = exchange_.shard_optimizer ? Collective::kReduceScatter : Collective::kAllReduce;
    for (const Bucket& bucket : buckets_) {
      link_free_ = std::max(link_free_, begin + bucket.ready) + communicate(collective, bucket.elements * exchange_.gradient_bytes);
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
  std::vector<Bucket> buckets_;
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
