// How a folder appears whole or not at all: free disk is asked first, the files are written under another name, a rename publishes them.
// And how one disappears again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>

namespace meristem {

// Bytes that this user may still write where `path` is or would be (the nearest existing parent decides).
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

// SystemError that names `path`, the bytes needed and the bytes free, where there are fewer.
void require_free_disk(const std::filesystem::path& path, std::uint64_t needed_bytes);

// A folder that is being written: it has a temporary name until `publish`, and is gone where that is never reached.
class PendingFolder {
 public:
  // Creates FINAL.tmp-PID-N beside `final_path` (and the parents, durably), and holds an advisory lock on it: the lock dies with
  // the process, so that the leftover of a dead write can be told from a write in flight even where process ids repeat, as in containers.
  explicit PendingFolder(const std::filesystem::path& final_path);
  virtual ~PendingFolder();  // removes what was not published
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // fsync of the folder, rename to the final name, fsync of the parent; the files must be durable already. InputError where something
  // stands there: another process was as quick, and what it has published stays.
  virtual void publish();
  // The same, in the place of the folder that stands there.
  virtual void replace();

 private:
  void published();

  std::filesystem::path path_, final_path_;
  int lock_fd_ = -1;
  bool published_ = false;
};

// Makes the folder that something is written into before it is published. A test may hand in one that fails or goes about it wrongly.
using MakeFolder = std::function<std::unique_ptr<PendingFolder>(const std::filesystem::path& final_path)>;
std::unique_ptr<PendingFolder> make_pending_folder(const std::filesystem::path& final_path);

// Removes from `folder` the pending folders whose writer is dead, and what was being deleted when a process died.
// Not to be called while another thread of this process creates a PendingFolder in `folder`.
void remove_dead_leftovers(const std::filesystem::path& folder);

// Renames a folder to FOLDER.WHY-1 (or -2, …) and returns the new path: kept for the user, no longer in the way.
std::filesystem::path set_aside(const std::filesystem::path& folder, std::string_view why);

// Deletes a folder so that a kill half-way leaves nothing that looks like a checkpoint: renamed to .trash-… first.
void remove_published(const std::filesystem::path& folder);

}  // namespace meristem
