// The folder of a run: config.yaml, metrics.jsonl, tensorboard/, plots/, samples/, checkpoints/, environment.json; tokenizer.json, the
// chat template and text.json, how the texts of its data were made.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config/run_config.h"

namespace meristem {

class RunFolder {
 public:
  // While it lives no other job uses the folder: the file `lock` in it is locked, and gone afterwards. The lock dies with the process: a
  // dead job holds none, though its file stays.
  class Lock {
   public:
    Lock(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::filesystem::path path_;
    int descriptor_;
  };

  // OUT/NAME. new_run: InputError where it exists and holds anything. Otherwise an existing folder is used as it is.
  // Creates what is missing; writes config.yaml, environment.json, a copy of the tokenizer where the config names one, and what the data's
  // manifests tell of how texts were made. Takes the lock, and gives it back where it fails.
  static RunFolder open(const RunConfig& config, bool new_run, std::unique_ptr<Lock>& lock);

  // The paths alone: nothing is created or written.
  static RunFolder existing(const RunConfig& config);

  // InputError where it exists and holds anything.
  void refuse_if_used() const;

  // Of a folder that exists. InputError says who holds it.
  std::unique_ptr<Lock> lock() const;
  // The same, but nothing is written and nothing held: before anything in the folder is read.
  void refuse_if_running() const;

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  std::filesystem::path samples() const { return root_ / "samples"; }
  std::filesystem::path tensorboard() const { return root_ / "tensorboard"; }
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }

 private:
  explicit RunFolder(std::filesystem::path root) : root_(std::move(root)) {}
  std::filesystem::path root_;
};

// What bit-exact resume depends on and what a reader of the run wants to know: version, commit, torch, cpu, threads, device, seed.
std::map<std::string, std::string> environment_of(const RunConfig& config, const std::string& device);

// The text commands that a run calls at its end, "plot" and "report": pictures and pages. Training does not depend on them.
// Runs one with the interpreter of scripts/meristem and waits. Empty, or why there is no result.
std::string run_script(const std::string& name, const std::vector<std::string>& arguments);

// Runs "plot" on the folder: plots/ and readable samples. Returns a line to say where it could not (no Python at hand, or the command
// failed); empty where it did.
std::string draw_plots(const RunFolder& folder);

}  // namespace meristem
