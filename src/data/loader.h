// Batches in the run's global order. A background thread reads ahead; what it has read but nobody took does not count in the position.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "config/run_config.h"
#include "data/batch.h"
#include "data/rows.h"
#include "data/sequence_sampler.h"

namespace meristem {

// InputError where a tokenizer.json has ids, added tokens included, that a model of vocab_size has no row for; DamagedError where it is
// none.
void require_fitting_ids(const std::filesystem::path& tokenizer, std::int64_t vocab_size);

// How the texts of the sources were made, for whoever goes on with the same tokenizer; empty where no manifest tells.
struct TextMaking {
  std::optional<std::vector<std::int64_t>> begin_of_text;  // ids before every text
  std::optional<std::int64_t> end_of_text;                 // empty, too, where sources end theirs in different ways
  std::string chat_template;                               // that rendered them
  std::vector<std::int64_t> end_of_turn;                   // special tokens that end an answer in it
};

// InputError naming two sources, validation included, whose texts begin in different ways or were rendered by different chat templates: no
// prompt would suit a model of both.
TextMaking text_making(const DataConfig& config);

class Loader {
 public:
  // Opens and checks every source, validation included, and the tokenizer against them: where data.tokenizer is given, its ids must fit
  // vocab_size and every manifest that names a tokenizer must name this one; no manifest may have more ids. `phases` begin at steps. An
  // update takes sequences_per_step global sequences, of which rank r of w takes the r-th w-th part. InputErrors begin with the config key.
  Loader(const DataConfig& config, const std::vector<PhaseConfig>& phases, std::int64_t sequences_per_step, std::int64_t vocab_size,
         std::int64_t seed, int rank = 0, int world_size = 1);
  virtual ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // This rank's next `sequences` unseen sequences. Throws what reading them threw: DamagedError, InputError where a source runs out.
  HostBatch next(std::int64_t sequences);

  // With more than one rank only between updates: inside one, no rank knows what the others took (std::logic_error).
  LoaderPosition position() const;
  virtual void seek(const LoaderPosition& position);

  // InputError where a source's max_repeats does not last from here to the end of update `total_steps`.
  void check_supply(std::int64_t total_steps) const { handed_out_.check_supply(total_steps); }
  // What all ranks took of each source so far, in config order.
  std::vector<SourceUse> use() const { return handed_out_.use(); }
  // What data.packing: best_fit made of each source, in config order; empty under concat.
  std::vector<PackingReport> packing() const;
  // Of each source by its name: ranks compare it.
  std::map<std::string, std::string> fingerprints() const;
  // Time that next() has spent waiting for the background thread.
  double seconds_waited() const { return seconds_waited_; }

 private:
  struct Row {
    HostBatch batch;  // one sequence
    std::exception_ptr error;
  };

  int world_size_;
  RowFormat format_;
  std::int64_t first_, last_;  // this rank's sequences of an update: [first_, last_)
  std::vector<RowStream> streams_;
  SequenceSampler handed_out_;  // as of what next() returned
  double seconds_waited_ = 0;

  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Row> rows_;
  bool stop_ = false;

  bool mine(std::int64_t in_step) const { return in_step >= first_ && in_step < last_; }
  Row take_row();
  void count_row();
  void start();
  void stop();
  void read_ahead(SequenceSampler sampler);
  bool push(Row row);
};

}  // namespace meristem
