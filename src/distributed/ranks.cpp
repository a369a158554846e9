#include "distributed/ranks.h"

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <thread>

#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "core/clock.h"
#include "core/errors.h"
#include "core/text.h"
#include "distributed/engine.h"
#include "distributed/watch.h"

namespace meristem {
namespace {

thread_local int g_joins = 0;  // of this process; all ranks count alike, threads that stand for ranks in tests too

// A launcher's store outlives an attempt, and a process may train several variants: each has names of its own.
std::string name_of_store(const RankPlace& place) { return fmt::format("meristem/{}/{}", place.restarts, g_joins); }

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown host";
}

}  // namespace

// ---- Collectives

namespace {

Pending pending(Ranks* ranks, std::vector<c10::intrusive_ptr<c10d::Work>> works) {
  return {ranks, std::make_shared<Pending::Works>(Pending::Works{std::move(works)})};
}

}  // namespace

void Pending::wait() {
  const std::shared_ptr<Works> works = std::exchange(works_, nullptr);
  if (!works) return;
  const double begin = seconds_now();
  try {
    for (const auto& work : works->works) work->wait();
  } catch (const std::exception& error) {
    ranks_->explain(error.what());
  }
  ranks_->seconds_waited_ += seconds_now() - begin;
}

Pending Ranks::sum(const at::Tensor& x) {
  if (!several()) return {};
  std::vector<at::Tensor> tensors{x};
  return pending(this, {engine_->group->allreduce(tensors)});
}

Pending Ranks::sum_to_owners(const at::Tensor& x, const FlatBucket& bucket) {
  // Gloo has no reduce-scatter that moves less than an all-reduce.
  if (!on_gpu_) return sum(x);
  const auto piece_of = [&](const FlatPiece& piece) { return x.narrow(0, piece.offset - bucket.offset, piece.count); };
  if (bucket.rule != UpdateRule::kMuon) {
    at::Tensor input = x, own = piece_of(bucket.pieces.at(static_cast<std::size_t>(rank())));
    return pending(this, {engine_->group->_reduce_scatter_base(own, input)});
  }
  engine_->group->startCoalescing();
  for (const FlatPiece& piece : bucket.pieces) {
    std::vector<at::Tensor> tensors{piece_of(piece)};
    c10d::ReduceOptions options;
    options.rootRank = piece.owner;
    options.asyncOp = true;
    engine_->group->reduce(tensors, options);
  }
  return pending(this, {engine_->group->endCoalescing()});
}

Pending Ranks::gather_from_owners(const at::Tensor& x, const FlatBucket& bucket) {
  if (!several()) return {};
  const auto piece_of = [&](const FlatPiece& piece) { return x.narrow(0, piece.offset - bucket.offset, piece.count); };
  if (bucket.rule != UpdateRule::kMuon) {
    at::Tensor output = x, own = piece_of(bucket.pieces.at(static_cast<std::size_t>(rank())));
    if (!on_gpu_) own = own.clone();  // Gloo may write the output before it has read all of the input
    return pending(this, {engine_->group->_allgather_base(output, own)});
  }
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  if (on_gpu_) engine_->group->startCoalescing();
  for (const FlatPiece& piece : bucket.pieces) {
    std::vector<at::Tensor> tensors{piece_of(piece)};
    c10d::BroadcastOptions options;
    options.rootRank = piece.owner;
    options.asyncOp = true;
    auto work = engine_->group->broadcast(tensors, options);
    if (!on_gpu_) works.push_back(std::move(work));
  }
  if (on_gpu_) works.push_back(engine_->group->endCoalescing());
  return pending(this, std::move(works));
}

void Ranks::join_bits(const at::Tensor& x) {
  TORCH_CHECK(x.is_contiguous(), "bits are joined in place");
  sum(x.view({-1}).view(at::kInt)).wait();  // integers: no zero loses its sign, no value its last bit
}

// Rank 0 may have left with its store after the watch has heard why.
std::string Ranks::why_store_is_gone() const {
  const std::string heard = watch_ ? watch_->reason() : "";
  return heard.empty() ? fmt::format("the store on the machine of rank 0 ({}) does not answer", places_.front()) : heard;
}

// What went wrong, in terms of ranks: the engine only knows of connections.
void Ranks::explain(const std::string& error) {
  std::string why;
  try {
    for (int i = 0; i < 5 && why.empty(); ++i) {  // whoever failed may be saying so just now
      why = Watch::failure(*engine_->words, rank());
      if (why.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    if (why.empty()) {
      const std::vector<std::string> silent = Watch::silent(*engine_->words, rank(), places_);
      if (!silent.empty()) why = fmt::format("{} {} gone", fmt::join(silent, ", "), silent.size() == 1 ? "is" : "are");
    }
  } catch (const std::exception&) {
    why = why_store_is_gone();
  }
  if (why.empty()) why = "a collective failed: " + error.substr(0, error.find('\n'));
  throw SystemError(why);
}

// ---- The group

Ranks::Ranks(const RankPlace& place) : place_(place), came_(place.size), engine_(std::make_unique<Engine>()) {}
Ranks::~Ranks() = default;

std::shared_ptr<Ranks> Ranks::alone() { return std::shared_ptr<Ranks>(new Ranks(RankPlace{})); }

namespace {

// Ends the process where connecting does not end by itself: something that is no store may listen at the port, and never answer.
class JoinDeadline {
 public:
  JoinDeadline(const RankPlace& place, double seconds) {
    thread_ = std::thread([this, place, seconds] {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, to_milliseconds(seconds), [this] { return joined_; })) return;
      const std::string line =
          fmt::format("meristem: error: {}rank 0 cannot be reached at {}:{} within {} s: what listens there does not answer\n",
                      place.rank > 0 ? fmt::format("[rank {}] ", place.rank) : "", place.master, place.port, number_text(seconds));
      [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
      ::_exit(1);
    });
  }
  ~JoinDeadline() {
    {
      const std::lock_guard lock(mutex_);
      joined_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool joined_ = false;
  std::thread thread_;
};

}  // namespace

std::shared_ptr<Ranks> Ranks::join(const RankPlace& place, at::Device device, const ParallelConfig& config) {
  std::shared_ptr<Ranks> ranks(new Ranks(place));
  if (!ranks->several()) return ranks;
  ++g_joins;
  std::signal(SIGPIPE, SIG_IGN);  // a rank that is gone is an error to be told, not an end without words
  ranks->on_gpu_ = device.is_cuda();
  ranks->timeout_ = config.timeout_seconds;
  {
    const JoinDeadline deadline(place, 2 * config.join_seconds + 6);  // two connections; on a busy machine an error takes seconds to say
    ranks->open_store(config);
  }
  const std::string gpu = device.is_cuda() ? fmt::format(", GPU {}", static_cast<int>(device.index())) : "";
  try {
    ranks->wait_for_all(fmt::format("{}, process {}{}", host_name(), ::getpid(), gpu), config);
  } catch (const Error& error) {
    ranks->fail(error.what());  // those that have come should not have to guess
    throw;
  }
  if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
  ranks->engine_->group = (device.is_cuda() ? nccl_group : gloo_group)(ranks->engine_->store, place, config.timeout_seconds);
  return ranks;
}

void Ranks::open_store(const ParallelConfig& config) {
  const auto connect = [&](bool serves) {
    c10d::TCPStoreOptions options;
    options.port = place_.port;
    options.isServer = serves;
    options.numWorkers = place_.size;
    options.waitWorkers = false;
    options.timeout = to_milliseconds(config.join_seconds);
    return c10::make_intrusive<c10d::PrefixStore>(name_of_store(place_), c10::make_intrusive<c10d::TCPStore>(place_.master, options));
  };
  const bool serves = first() && !place_.agent_hosts_store;
  try {
    engine_->store = connect(serves);
  } catch (const std::exception& error) {
    if (serves && std::string_view(error.what()).find("EADDRINUSE") != std::string_view::npos) {
      throw InputError(fmt::format("MASTER_PORT: {} is in use on this machine; choose another one", place_.port));
    }
    throw SystemError(
        fmt::format("rank 0 cannot be reached at {}:{} within {} s", place_.master, place_.port, number_text(config.join_seconds)));
  }
  engine_->words = connect(false);
}

void Ranks::wait_for_all(const std::string& here, const ParallelConfig& config) {
  const auto key = [](int rank) { return fmt::format("place/{}", rank); };
  engine_->store->set(key(rank()), here);
  const double deadline = seconds_now() + config.join_seconds;
  std::vector<int> missing;
  do {
    if (const std::string failed = Watch::failure(*engine_->words, rank()); !failed.empty()) throw SystemError(failed);
    missing.clear();
    for (int other = 0; other < size(); ++other) {
      if (!engine_->store->check({key(other)})) missing.push_back(other);
    }
    if (!missing.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  } while (!missing.empty() && seconds_now() < deadline);
  if (!missing.empty()) {
    came_ = size() - static_cast<int>(missing.size());
    throw SystemError(fmt::format("rank {} of {} {} not come within {} s ({}:{})", fmt::join(missing, ", "), size(),
                                  missing.size() == 1 ? "has" : "have", number_text(config.join_seconds), place_.master, place_.port));
  }
  for (int other = 0; other < size(); ++other) places_.push_back(engine_->store->get_to_str(key(other)));
  const auto machine_and_gpu = [](std::string place) {
    const auto process = place.find(", process "), gpu = place.find(", GPU ");
    return gpu == std::string::npos ? std::string() : place.substr(0, process) + place.substr(gpu);
  };
  for (int other = 0; other < size(); ++other) {
    const std::string mine = machine_and_gpu(here);
    if (other == rank() || mine.empty() || machine_and_gpu(places_[static_cast<std::size_t>(other)]) != mine) continue;
    throw InputError(fmt::format("rank {} and rank {} share one GPU ({}); start one process a GPU", std::min(rank(), other),
                                 std::max(rank(), other), mine));
  }
  c10d::TCPStoreOptions options;
  options.port = place_.port;
  options.waitWorkers = false;
  options.timeout = to_milliseconds(config.join_seconds);
  auto own = c10::make_intrusive<c10d::PrefixStore>(name_of_store(place_), c10::make_intrusive<c10d::TCPStore>(place_.master, options));
  watch_ = std::make_unique<Watch>(own, rank(), places_, config.heartbeat_seconds);
}

// ---- Words

std::vector<std::string> Ranks::meet(const std::string& name, const std::string& mine) {
  if (!several()) return {mine};
  std::int64_t round = 0;
  {
    const std::lock_guard lock(names_mutex_);
    round = names_used_[name]++;
  }
  const auto key = [&](int rank, std::int64_t at) { return fmt::format("meet/{}/{}/{}", name, at, rank); };
  std::vector<std::string> said;
  try {
    engine_->words->set(key(rank(), round), mine);
    // Whoever is in this round has read the one before the last.
    if (round >= 2) engine_->words->deleteKey(key(rank(), round - 2));
    const double deadline = seconds_now() + timeout_;
    auto pause = std::chrono::milliseconds(1);
    for (int other = 0; other < size(); ++other) {
      while (!engine_->words->check({key(other, round)})) {
        if (failed_) throw SystemError("this rank has failed");
        const std::string failed = Watch::failure(*engine_->words, rank());
        // It may have said its words here before it failed.
        if (!failed.empty() && !engine_->words->check({key(other, round)})) throw SystemError(failed);
        if (seconds_now() > deadline) {
          throw SystemError(fmt::format("{}: rank {} ({}) did not come within {} s", name, other,
                                        places_.at(static_cast<std::size_t>(other)), number_text(timeout_)));
        }
        std::this_thread::sleep_for(pause);
        pause = std::min(2 * pause, std::chrono::milliseconds(50));
      }
      said.push_back(engine_->words->get_to_str(key(other, round)));
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception&) {
    throw SystemError(why_store_is_gone());
  }
  return said;
}

void Ranks::agree(const std::string& name, const std::map<std::string, std::string>& facts) {
  for (const auto& [fact, value] : facts) {
    const std::vector<std::string> said = meet(name + "/" + fact, value);
    std::vector<int> others;
    for (int other = 1; other < size(); ++other) {
      if (said[static_cast<std::size_t>(other)] != said.front()) others.push_back(other);
    }
    if (others.empty()) continue;
    const auto first_other = static_cast<std::size_t>(others.front());
    throw InputError(fmt::format("ranks differ in {}: rank {} ({}) has {}, rank 0 has {}", fact, fmt::join(others, ", "),
                                 places_.at(first_other), said[first_other], said.front()));
  }
}

void Ranks::first_does(const std::string& name, const std::function<void()>& action) {
  std::string refusal;
  if (first()) {
    try {
      action();
    } catch (const InputError& error) {
      if (!several()) throw;
      refusal = error.what();
    }
  }
  refusal = first_says(name, refusal);
  if (!refusal.empty()) throw InputError(refusal);
}

void Ranks::fail(const std::string& reason) {
  if (!several() || failed_.exchange(true)) return;
  try {
    Watch::post_failure(*engine_->words, rank(), reason.substr(0, reason.find('\n')));
    engine_->store->add("left", 1);
    // Rank 0 serves the store: the others need it to hear this.
    const double deadline = seconds_now() + 3;
    while (first() && !place_.agent_hosts_store && seconds_now() < deadline && engine_->store->add("left", 0) < came_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } catch (const std::exception&) {
    // The store has gone with the machine that failed first.
  }
}

void Ranks::leave() {
  if (!several()) return;
  meet("leave", "");
  watch_.reset();
  // Rank 0 serves the store until the others have read that all are here.
  engine_->store->add("left", 1);
  const double deadline = seconds_now() + 10;
  while (first() && seconds_now() < deadline && engine_->store->add("left", 0) < size())
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

ExitCode as_rank(const RankPlace& place, at::Device device, const ParallelConfig& config,
                 const std::function<ExitCode(std::shared_ptr<Ranks>)>& action) {
  const std::shared_ptr<Ranks> ranks = Ranks::join(place, device, config);
  try {
    const ExitCode code = action(ranks);
    ranks->leave();
    return code;
  } catch (const NonFiniteError&) {
    ranks->leave();
    throw;
  } catch (const std::exception& error) {
    ranks->fail(error.what());
    if (ranks->several()) new std::shared_ptr<Ranks>(ranks);  // its collectives may never end, and taking it down waits for them
    throw;
  }
}

}  // namespace meristem
