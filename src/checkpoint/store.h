// Checkpoints on disk: a folder step-N with model.safetensors, optimizer-0.safetensors (and -1, -2, … where several ranks wrote it),
// state.json and manifest.json.
// At any kill there is a whole checkpoint or none: a folder gets its final name only when everything in it is durable.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/publish.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/train_state.h"
#include "config/run_config.h"
#include "core/errors.h"

namespace meristem {

// manifest.json, the last file of a checkpoint to be written: a folder is a checkpoint only if it holds one that agrees with it.
struct Manifest {
  std::int64_t step = 0;
  std::map<std::string, FileDigest> files;  // by file name inside the folder
};

std::string manifest_json(const Manifest& manifest);

// Reads FOLDER/manifest.json. DamagedError where it is missing or wrong; InputError for a format version from the future.
Manifest read_manifest(const std::filesystem::path& folder);

struct CheckpointContent {
  TrainState state;
  // The bytes must stay alive and unchanged until save_checkpoint returns. Several writers: model is the first one's alone, and each tensor
  // of the optimizer is one writer's.
  std::vector<TensorView> model, optimizer;
};

struct LoadedCheckpoint {
  TrainState state;
  SafetensorsFile model;  // mapped, as are the parts:
  std::vector<SafetensorsFile> optimizer;
};

// Those who write one checkpoint together, each in a process of its own. meet(what, text): what all of them said, in order.
struct Writers {
  int writer = 0, count = 1;
  std::function<std::vector<std::string>(const std::string& what, const std::string& text)> meet =
      [](const std::string&, const std::string& text) { return std::vector<std::string>{text}; };
};

// What happens to a whole checkpoint that stands where one is saved.
enum class IfWhole { kRefuse, kReplace };

struct FoundCheckpoint {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::vector<std::string> skipped_damaged;  // one line for each newer one that is damaged: what and why
};

// "step-0000001000", and back (nullopt for any other name; the number of digits is free).
std::string checkpoint_name(std::int64_t step);
std::optional<std::int64_t> checkpoint_step(std::string_view folder_name);

// Writes `folder` (its parents too). A whole checkpoint there is never overwritten (InputError), unless the caller's own is to be replaced:
// then one of the two stands there at any time. A damaged one is renamed to FOLDER.damaged-K first. Too little free disk or a disk that
// fills up: SystemError, and nothing is left behind. A folder that cannot be written: InputError. Several writers: the first makes the
// folder and publishes it when all have written their files. Where one fails it throws its own error and all others throw a SystemError
// that says whose; nothing is published.
void save_checkpoint(const std::filesystem::path& folder, const CheckpointContent& content,
                     const MakeFolder& make_folder = make_pending_folder, const Writers& writers = {}, IfWhole if_whole = IfWhole::kRefuse);

// Reads and verifies everything: sizes and hashes against the manifest, headers, and that manifest, state, tensor files and the
// folder's name tell the same step. DamagedError; InputError for a folder that does not exist or a format from the future.
LoadedCheckpoint load_checkpoint(const std::filesystem::path& folder);

// The step-N folder with the largest N that load_checkpoint accepts. nullopt where there is no step-N folder at all;
// DamagedError where there are some and none is whole (to start anew silently would hide the loss).
std::optional<FoundCheckpoint> newest_whole_checkpoint(const std::filesystem::path& checkpoints_folder);

// A checkpoint as a user may name it: `path` itself, or, where it is a run's folder, the newest whole one in its checkpoints/. Adds a line
// to `skipped` for each newer one that is damaged. InputError where it is no folder, or a run that has none yet.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path, std::vector<std::string>& skipped);

// Of a checkpoint that could not be read at the `attempt`-th time: whether it has been deleted.
// Then another look at `path` may help.
// InputError where `path` itself is gone, or after many attempts.
bool went_away(const std::filesystem::path& folder, const std::filesystem::path& path, int attempt);

// read(folder) on the checkpoint that resolve_checkpoint(path, skipped) says. A run that trains deletes its older checkpoints, under
// readers too: where the folder is gone by the time that read() throws, it is read anew, from what is the newest then. InputError where
// `path` itself is gone, or where they go faster than they can be read. What has been opened stays readable.
template <class Read>
auto read_checkpoint(const std::filesystem::path& path, std::vector<std::string>& skipped, const Read& read) {
  for (int attempt = 1;; ++attempt) {
    skipped.clear();
    const std::filesystem::path folder = resolve_checkpoint(path, skipped);
    try {
      return read(folder);
    } catch (const Error&) {
      if (!went_away(folder, path, attempt)) throw;
    }
  }
}

// Deletes the step-N folders that are older than the `keep_last` (at least 1) newest whole ones, but for pinned steps and
// multiples of `keep_every` (0: none). The newest whole one, read and verified for this, always stays. Also removes what dead
// writes and dead deletions left. Call it from the thread that saves.
void rotate_checkpoints(const std::filesystem::path& checkpoints_folder, std::int64_t keep_last, std::int64_t keep_every,
                        const std::set<std::int64_t>& pinned_steps);

// Bytes that save_checkpoint would write, to be compared with the free disk before a run.
std::uint64_t checkpoint_bytes(const CheckpointContent& content);

// A checkpoint against itself: the files are whole, but do they tell of one model? In check.cpp.

// What the two tensor files of a checkpoint have to hold: names, types and shapes. The views have no data.
struct CheckpointLayout {
  std::vector<TensorView> model, optimizer;
};

// The layout of the model that a config describes, model.blocks included, and of its optimizer. This room knows no models: the caller does.
using LayoutOf = std::function<CheckpointLayout(const RunConfig& config)>;

// load_checkpoint(folder), and then: config_hash is that of config_yaml, the depth plan goes with the blocks, and the tensors are those of
// the layout for that config and those blocks, by name, shape and type; an optimizer file without a tensor will do.
// DamagedError names file and key or tensor; InputError as load_checkpoint, and for a config that this program does not know.
LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const LayoutOf& layout_of);

// The config that a checkpoint carries, as it was resolved then. Errors as above.
RunConfig config_of(const LoadedCheckpoint& checkpoint, const std::filesystem::path& folder);

}  // namespace meristem
