// The processes that train one model together: who this one is, how it finds the others, what they say to each other on the host, and the
// collectives that step/ queues. One process alone is the same with nobody to talk to: every call returns at once.
//
// Errors: a collective that cannot end, because another rank is gone, throws a SystemError that names it. After any failure no collective
// is issued. A watch (watch.h) ends this process where another rank failed or is not heard of.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "config/run_config.h"
#include "core/errors.h"
#include "distributed/rank_place.h"
#include "optim/buckets.h"

namespace meristem {

// A collective under way.
class Pending {
 public:
  struct Works;
  Pending() = default;
  Pending(class Ranks* ranks, std::shared_ptr<Works> works) : ranks_(ranks), works_(std::move(works)) {}
  // CPU: until it is done. GPU: what is queued on the current stream from now on runs after it. Once.
  void wait();

 private:
  Ranks* ranks_ = nullptr;
  std::shared_ptr<Works> works_;
};

class Ranks {
 public:
  struct Engine;
  // One process.
  static std::shared_ptr<Ranks> alone();
  // Finds the others: InputError where the port is in use, two ranks share a GPU, or this build cannot talk; SystemError names the ranks
  // that did not come in time. `device` of this rank: its GPU, or the CPU.
  static std::shared_ptr<Ranks> join(const RankPlace& place, at::Device device, const ParallelConfig& config);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return place_.rank; }
  int size() const { return place_.size; }
  bool several() const { return place_.size > 1; }
  bool first() const { return place_.rank == 0; }

  // ---- Collectives on tensors of the device, in the same order on all ranks. Contiguous; overwritten in place.
  Pending sum(const at::Tensor& x);
  // x [bucket.count]: sums it over ranks. Afterwards an owner has its own pieces right; the others are unspecified.
  Pending sum_to_owners(const at::Tensor& x, const FlatBucket& bucket);
  // x [bucket.count]: each piece becomes as its owner has it.
  Pending gather_from_owners(const at::Tensor& x, const FlatBucket& bucket);
  // Adds up bit patterns: exact where all ranks but one have zeros. Waits.
  void join_bits(const at::Tensor& x);
  // Host seconds that Pending::wait has waited so far.
  double seconds_waited() const { return seconds_waited_; }

  // ---- Words on the host, through the store: for starts and checkpoints, not for every update. One name is used once.
  // What each rank said under `name`, in order. SystemError after timeout_seconds, or where a rank has failed meanwhile. May be called from
  // a thread of its own: it has a connection of its own.
  std::vector<std::string> meet(const std::string& name, const std::string& mine);
  // InputError, on all ranks, that says which facts differ from rank 0's, and where.
  void agree(const std::string& name, const std::map<std::string, std::string>& facts);
  // Rank 0's answer, on all ranks.
  std::string first_says(const std::string& name, const std::string& mine) { return meet(name, first() ? mine : "").front(); }

  // Rank 0 does it, and where that throws an InputError, so do the others: it is everybody's.
  void first_does(const std::string& name, const std::function<void()>& action);

  // Tells the others why this rank is about to end, so that they end too.
  void fail(const std::string& reason);
  // The orderly end: waits until all have come to it.
  void leave();

 private:
  friend class Pending;
  explicit Ranks(const RankPlace& place);
  void open_store(const ParallelConfig& config);
  void wait_for_all(const std::string& here, const ParallelConfig& config);
  std::string why_store_is_gone() const;
  [[noreturn]] void explain(const std::string& error);

  RankPlace place_;
  int came_;  // ranks, of all
  bool on_gpu_ = false;
  double timeout_ = 0, seconds_waited_ = 0;
  std::atomic<bool> failed_{false};  // this rank: who still waits here for others gives up
  std::mutex names_mutex_;
  std::map<std::string, std::int64_t> names_used_;
  std::vector<std::string> places_;  // "host, process 123" by rank
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<class Watch> watch_;
};

// Joins the ranks that `place` speaks of, does it, and leaves in order. Where it throws, the others hear why first; a NonFiniteError is met
// by all of them alike. With several ranks the process has to end after a throw without running destructors of static storage: the others
// may still be waited for.
ExitCode as_rank(const RankPlace& place, at::Device device, const ParallelConfig& config,
                 const std::function<ExitCode(std::shared_ptr<Ranks>)>& action);

}  // namespace meristem
