#include <algorithm>
#include <functional>

#include <fmt/format.h>

#include "checkpoint/manifest.h"
#include "checkpoint/pending_folder.h"
#include "checkpoint/store.h"
#include "core/errors.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

struct StepFolder {
  std::int64_t step;
  fs::path path;
};

std::vector<StepFolder> newest_first(const fs::path& checkpoints_folder) {
  std::vector<StepFolder> out;
  for (const std::string& name : folder_entries(checkpoints_folder)) {
    const std::optional<std::int64_t> step = checkpoint_step(name);
    std::error_code ignored;
    if (step && fs::is_directory(checkpoints_folder / name, ignored)) out.push_back({*step, checkpoints_folder / name});
  }
  std::stable_sort(out.begin(), out.end(), [](const StepFolder& a, const StepFolder& b) { return a.step > b.step; });
  return out;
}

// Without reading the data: every listed file is there in its listed size.
bool looks_whole(const fs::path& folder) {
  try {
    const Manifest manifest = read_manifest(folder);
    return !manifest.files.empty() && std::all_of(manifest.files.begin(), manifest.files.end(), [&](const auto& file) {
      std::error_code error;
      return fs::file_size(folder / file.first, error) == file.second.bytes && !error;
    });
  } catch (const DamagedError&) {
    return false;
  }
}

bool is_whole(const fs::path& folder) {
  try {
    load_checkpoint(folder);
    return true;
  } catch (const DamagedError&) {
    return false;
  }
}

}  // namespace

std::optional<FoundCheckpoint> newest_whole_checkpoint(const fs::path& checkpoints_folder) {
  FoundCheckpoint found;
  for (const StepFolder& candidate : newest_first(checkpoints_folder)) {
    try {
      load_checkpoint(candidate.path);
      found.path = candidate.path;
      found.step = candidate.step;
      return found;
    } catch (const DamagedError& error) {
      found.skipped_damaged.emplace_back(error.what());
    }
  }
  if (found.skipped_damaged.empty()) return std::nullopt;
  throw DamagedError(fmt::format("{}: none of {} checkpoints is whole; the newest: {}", checkpoints_folder.string(),
                                 found.skipped_damaged.size(), found.skipped_damaged.front()));
}

fs::path resolve_checkpoint(const fs::path& path, std::vector<std::string>& skipped) {
  if (!is_folder(path)) throw InputError(fmt::format("{}: is not a checkpoint or run folder", path.string()));
  if (!is_folder(path / "checkpoints")) return path;
  const auto found = newest_whole_checkpoint(path / "checkpoints");
  if (!found) throw InputError(fmt::format("{}: has no checkpoint yet", path.string()));
  skipped.insert(skipped.end(), found->skipped_damaged.begin(), found->skipped_damaged.end());
  return found->path;
}

void rotate_checkpoints(const fs::path& checkpoints_folder, std::int64_t keep_last, std::int64_t keep_every,
                        const std::set<std::int64_t>& pinned_steps) {
  remove_dead_leftovers(checkpoints_folder);
  const std::int64_t wanted = std::max<std::int64_t>(keep_last, 1);
  std::int64_t kept = 0;
  for (const StepFolder& candidate : newest_first(checkpoints_folder)) {
    if (kept < wanted) {
      // Sizes decide which ones count; but before anything older may go, one must have been read in full.
      if (kept == 0 ? is_whole(candidate.path) : looks_whole(candidate.path)) ++kept;
      continue;
    }
    const bool multiple = keep_every > 0 && candidate.step % keep_every == 0;
    if (!multiple && !pinned_steps.contains(candidate.step)) remove_published(candidate.path);
  }
}

}  // namespace meristem
