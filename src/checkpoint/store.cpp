#include "checkpoint/store.h"

#include <algorithm>
#include <charconv>
#include <exception>
#include <functional>
#include <sstream>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

constexpr const char *kModel = "model.safetensors", *kState = "state.json", *kManifest = "manifest.json";

std::string optimizer_file(std::size_t part) { return fmt::format("optimizer-{}.safetensors", part); }
constexpr std::string_view kStepPrefix = "step-";

// A manifest must not be able to name a file outside its folder.
bool plain_file_name(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  };
  return !name.empty() && name.size() <= 200 && name[0] != '.' && std::all_of(name.begin(), name.end(), allowed);
}

// In each tensor file's metadata, so that a file from another step or in the other's place is found even where hashes were redone.
std::map<std::string, std::string> tensor_metadata(const char* content, std::int64_t step) {
  return {{"format", "pt"}, {"content", content}, {"step", std::to_string(step)}};
}

FileDigest write_text(const fs::path& path, const std::string& text) {
  HashedFile file(path);
  file.write(text.data(), text.size());
  return file.close_durably();
}

fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

// Whether there is one to replace.
bool make_way(const fs::path& folder, IfWhole if_whole) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(folder, ignored))) return false;
  try {
    load_checkpoint(folder);
  } catch (const DamagedError&) {
    set_aside(folder, "damaged");
    return false;
  }
  if (if_whole == IfWhole::kReplace) return true;
  throw InputError(folder.string() + ": a checkpoint exists and is never overwritten");
}

void verify_file(const fs::path& folder, const Manifest& manifest, const std::string& name) {
  const std::string path = (folder / name).string();
  const auto listed = manifest.files.find(name);
  if (listed == manifest.files.end()) throw DamagedError(fmt::format("{}: files: {} is not listed", (folder / kManifest).string(), name));
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) throw DamagedError(path + ": is missing, but manifest.json lists it");
  const MappedFile file(path);
  if (file.bytes().size() != listed->second.bytes) {
    throw DamagedError(fmt::format("{}: {} bytes, manifest.json says {}", path, file.bytes().size(), listed->second.bytes));
  }
  const std::string hash = xxh3_hex(file.bytes());
  if (hash != listed->second.xxh3)
    throw DamagedError(fmt::format("{}: xxh3 is {}, manifest.json says {}", path, hash, listed->second.xxh3));
}

// The names of the optimizer's parts, in order.
std::vector<std::string> optimizer_parts(const Manifest& manifest) {
  std::vector<std::string> names{optimizer_file(0)};
  while (manifest.files.contains(optimizer_file(names.size()))) names.push_back(optimizer_file(names.size()));
  return names;
}

void verify_listing(const fs::path& folder, const Manifest& manifest) {
  std::vector<std::string> expected = optimizer_parts(manifest);
  expected.insert(expected.begin(), kModel);
  expected.push_back(kState);
  for (const std::string& name : expected) verify_file(folder, manifest, name);
  for (const auto& [name, digest] : manifest.files) {
    if (std::find(expected.begin(), expected.end(), name) == expected.end()) {
      throw DamagedError(fmt::format("{}: files.{}: no such file belongs to format version {}", (folder / kManifest).string(), name,
                                     kCheckpointFormatVersion));
    }
  }
  for (const std::string& name : folder_entries(folder)) {
    if (name.ends_with(".safetensors") && !manifest.files.contains(name)) {
      throw DamagedError(fmt::format("{}: is not listed in manifest.json: mixed from two checkpoints?", (folder / name).string()));
    }
  }
}

void verify_step(const SafetensorsFile& file, const char* content, std::int64_t step) {
  for (const auto& [key, expected] : tensor_metadata(content, step)) {
    const auto found = file.metadata().find(key);
    const std::string text = found == file.metadata().end() ? "nothing" : in_quotes(found->second);
    if (found == file.metadata().end() || found->second != expected) {
      throw DamagedError(fmt::format("{}: header: __metadata__.{}: found {}, expected '{}'", file.path().string(), key, text, expected));
    }
  }
}

}  // namespace

std::string manifest_json(const Manifest& manifest) {
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const auto& [name, digest] : manifest.files) files[name] = {{"bytes", digest.bytes}, {"xxh3", digest.xxh3}};
  nlohmann::ordered_json json;
  // Older programs read what one writer wrote.
  json["format_version"] = optimizer_parts(manifest).size() > 1 ? kSeveralWritersVersion : 1;
  json["step"] = manifest.step;
  json["files"] = files;
  return json.dump(1) + "\n";
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "manifest.json";
  const std::string origin = path.string();
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) throw DamagedError(origin + ": is missing: not a whole checkpoint");
  const nlohmann::json document = parse_json_strict(read_file(path), origin);
  const JsonCursor json(document, origin);
  read_format_version(json, origin);
  json.allow_only({"format_version", "step", "files"});
  Manifest manifest;
  manifest.step = json.at("step").integer(0);
  for (const auto& [name, entry] : json.at("files").members()) {
    if (!plain_file_name(name)) entry.fail("is not a plain file name");
    entry.allow_only({"bytes", "xxh3"});
    FileDigest digest;
    digest.bytes = static_cast<std::uint64_t>(entry.at("bytes").integer(0));
    digest.xxh3 = entry.at("xxh3").hash();
    manifest.files.emplace(name, digest);
  }
  return manifest;
}

std::string checkpoint_name(std::int64_t step) { return fmt::format("{}{:010}", kStepPrefix, step); }

std::optional<std::int64_t> checkpoint_step(std::string_view folder_name) {
  if (!folder_name.starts_with(kStepPrefix)) return std::nullopt;
  const std::string_view digits = folder_name.substr(kStepPrefix.size());
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  std::int64_t step = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  return parsed.ec == std::errc() ? std::optional(step) : std::nullopt;
}

std::uint64_t checkpoint_bytes(const CheckpointContent& content) {
  constexpr std::uint64_t kManifestAndFolders = 64 << 10;
  return safetensors_size(content.model, tensor_metadata("model", content.state.step)) +
         safetensors_size(content.optimizer, tensor_metadata("optimizer", content.state.step)) + train_state_json(content.state).size() +
         kManifestAndFolders;
}

namespace {

constexpr char kWent = '+', kFailed = '-';  // the first letter of what a writer says of its part

// Does this writer's part, if any, and meets the others: what each has made. Throws on all where it failed for one.
template <class Work>
std::vector<std::string> together(const Writers& writers, const std::string& what, const Work& work) {
  std::string said;
  std::exception_ptr own;
  try {
    said = kWent + work();
  } catch (const std::exception& error) {
    own = std::current_exception();
    said = kFailed + std::string(error.what());
  }
  std::vector<std::string> all = writers.meet(what, said);
  if (own) std::rethrow_exception(own);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].empty() || all[i].front() == kFailed) {
      throw SystemError(fmt::format("rank {} cannot write the checkpoint: {}", i, all[i].empty() ? all[i] : all[i].substr(1)));
    }
    all[i].erase(0, 1);
  }
  return all;
}

// "NAME SIZE HASH" lines, and back.
std::string digest_lines(const std::map<std::string, FileDigest>& files) {
  std::string lines;
  for (const auto& [name, digest] : files) lines += fmt::format("{} {} {}\n", name, digest.bytes, digest.xxh3);
  return lines;
}

void read_digest_lines(const std::string& lines, std::map<std::string, FileDigest>& files) {
  std::istringstream in(lines);
  std::string name;
  for (FileDigest digest; in >> name >> digest.bytes >> digest.xxh3;) files[name] = digest;
}

std::map<std::string, FileDigest> write_files(const fs::path& folder, const CheckpointContent& content, const Writers& writers,
                                              const std::string& state) {
  const std::int64_t step = content.state.step;
  std::map<std::string, FileDigest> files;
  const std::string optimizer = optimizer_file(static_cast<std::size_t>(writers.writer));
  if (writers.writer == 0) files[kModel] = write_safetensors(folder / kModel, content.model, tensor_metadata("model", step));
  files[optimizer] = write_safetensors(folder / optimizer, content.optimizer, tensor_metadata("optimizer", step));
  if (writers.writer == 0) files[kState] = write_text(folder / kState, state);
  return files;
}

}  // namespace

void save_checkpoint(const fs::path& folder_argument, const CheckpointContent& content, const MakeFolder& make_folder,
                     const Writers& writers, IfWhole if_whole) {
  const fs::path folder = without_trailing_slash(folder_argument);
  const std::int64_t step = content.state.step;
  const bool first = writers.writer == 0;
  std::unique_ptr<PendingFolder> pending;
  bool replaces = false;
  std::string state;
  const auto opened = together(writers, "folder", [&]() -> std::string {
    const std::optional<std::int64_t> named = checkpoint_step(folder.filename().string());
    if (named && *named != step) throw InputError(fmt::format("{}: the folder's name contradicts step {}", folder.string(), step));
    if (first) state = train_state_json(content.state);
    if (first) replaces = make_way(folder, if_whole);
    require_free_disk(folder, checkpoint_bytes(content));
    if (first) pending = make_folder(folder);
    return first ? pending->path().string() : "";
  });
  const auto written = together(writers, "files", [&] {
    const fs::path place = opened.front();
    if (!is_folder(place)) throw InputError(fmt::format("{}: is not seen here; all ranks need the same file system", place.string()));
    return digest_lines(write_files(place, content, writers, state));
  });
  together(writers, "published", [&]() -> std::string {
    if (!first) return "";
    Manifest manifest{step, {}};
    for (const std::string& lines : written) read_digest_lines(lines, manifest.files);
    write_text(pending->path() / kManifest, manifest_json(manifest));
    replaces ? pending->replace() : pending->publish();
    return "";
  });
}

LoadedCheckpoint load_checkpoint(const fs::path& folder_argument) {
  const fs::path folder = without_trailing_slash(folder_argument);
  if (!is_folder(folder)) throw InputError(folder.string() + ": there is no such checkpoint folder");
  const Manifest manifest = read_manifest(folder);
  verify_listing(folder, manifest);

  const std::string state_path = (folder / kState).string();
  LoadedCheckpoint loaded{parse_train_state(read_file(state_path), state_path), SafetensorsFile::open(folder / kModel), {}};
  for (const std::string& name : optimizer_parts(manifest)) loaded.optimizer.push_back(SafetensorsFile::open(folder / name));
  const std::int64_t step = loaded.state.step;
  if (manifest.step != step) {
    throw DamagedError(fmt::format("{}: step: found {}, state.json says {}", (folder / kManifest).string(), manifest.step, step));
  }
  verify_step(loaded.model, "model", step);
  std::map<std::string_view, std::string> part_with;
  for (const SafetensorsFile& part : loaded.optimizer) {
    verify_step(part, "optimizer", step);
    for (const TensorView& tensor : part.tensors()) {
      const auto [other, fresh] = part_with.emplace(tensor.name, part.path().filename().string());
      if (fresh) continue;
      throw DamagedError(fmt::format("{}: tensor {}: {} has it too", part.path().string(), printable(tensor.name), other->second));
    }
  }
  const std::optional<std::int64_t> named = checkpoint_step(fs::absolute(folder).filename().string());
  if (named && *named != step) throw DamagedError(fmt::format("{}: step: found {}, the folder's name says {}", state_path, step, *named));
  return loaded;
}

namespace {

struct StepFolder {
  std::int64_t step;
  fs::path path;
};

std::vector<StepFolder> newest_first(const fs::path& checkpoints_folder) {
  // A listing is no snapshot: while a run publishes a checkpoint and deletes the one before, it may show neither. So an empty one is made
  // anew.
  constexpr int kLooks = 50;
  std::vector<StepFolder> out;
  for (int look = 0; look < kLooks && out.empty(); ++look) {
    for (const std::string& name : folder_entries(checkpoints_folder)) {
      const std::optional<std::int64_t> step = checkpoint_step(name);
      std::error_code ignored;
      if (step && fs::is_directory(checkpoints_folder / name, ignored)) out.push_back({*step, checkpoints_folder / name});
    }
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

bool went_away(const fs::path& folder, const fs::path& path, int attempt) {
  constexpr int kAttempts = 20;
  if (is_folder(folder)) return false;
  if (folder == path)
    throw InputError(fmt::format("{}: was deleted while it was read, as a run that trains deletes older checkpoints", folder.string()));
  if (attempt == kAttempts) {
    throw InputError(fmt::format("{}: checkpoints are deleted faster than they can be read; raise checkpoint.keep_last", path.string()));
  }
  return true;
}

std::optional<FoundCheckpoint> newest_whole_checkpoint(const fs::path& checkpoints_folder) {
  FoundCheckpoint found;
  int attempt = 1;
  for (std::vector<StepFolder> left = newest_first(checkpoints_folder); !left.empty();) {
    const StepFolder candidate = left.front();
    left.erase(left.begin());
    try {
      load_checkpoint(candidate.path);
      found.path = candidate.path;
      found.step = candidate.step;
      return found;
    } catch (const Error& error) {
      if (went_away(candidate.path, checkpoints_folder, attempt)) {
        ++attempt;
        found = {};
        left = newest_first(checkpoints_folder);
      } else if (error.exit_code() == ExitCode::kDamaged) {
        found.skipped_damaged.emplace_back(error.what());
      } else {
        throw;
      }
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
