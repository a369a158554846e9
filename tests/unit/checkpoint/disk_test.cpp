// A full disk and a read-only folder, made with small tmpfs mounts where the test runs as root; the rest runs everywhere.
#include <csignal>

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "checkpoint/publish.h"
#include "checkpoint/store.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;
namespace fs = std::filesystem;

namespace {

class Tmpfs {
 public:
  Tmpfs(const fs::path& folder, const char* options) : folder_(folder) {
    fs::create_directories(folder);
    mounted_ = ::mount("tmpfs", folder.c_str(), "tmpfs", 0, options) == 0;
    if (!mounted_) WARN("skipped: a tmpfs cannot be mounted here (needs root)");
  }
  ~Tmpfs() {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool make_read_only() const { return ::mount("tmpfs", folder_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "") == 0; }

 private:
  fs::path folder_;
  bool mounted_ = false;
};

constexpr std::int64_t kWide = 100'000;  // 1.6 MB of weights and as much of moments

// Runs `body` in a child process, whose limits do not matter to the other tests; its exit code.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

}  // namespace

TEST_CASE("free disk is asked before the write: bytes needed and bytes free are named, and nothing is written") {
  const TempDir dir;
  const Tmpfs disk(dir / "full", "size=1m");
  if (!disk.mounted()) return;
  const SampleCheckpoint small(1), large(2, kWide);
  save_checkpoint(dir / "full/checkpoints/step-1", small.content);
  const std::string message = message_of<SystemError>([&] { save_checkpoint(dir / "full/checkpoints/step-2", large.content); });
  INFO(message);
  CHECK(contains(message,
                 "full/checkpoints/step-2: not enough free disk: " + std::to_string(checkpoint_bytes(large.content)) + " bytes needed"));
  CHECK(contains(message, " bytes free"));
  CHECK(folder_entries(dir / "full/checkpoints") == std::vector<std::string>{"step-1"});
  CHECK(load_checkpoint(dir / "full/checkpoints/step-1").state.step == 1);
}

TEST_CASE("a disk that fills up during the write loses nothing and leaves nothing") {
  const TempDir dir;
  const Tmpfs disk(dir / "full", "size=16m,nr_inodes=10");  // bytes enough, but no room for all the files
  if (!disk.mounted()) return;
  save_checkpoint(dir / "full/step-1", SampleCheckpoint(1).content);
  const SampleCheckpoint next(2);
  const std::string message = message_of<SystemError>([&] { save_checkpoint(dir / "full/step-2", next.content); });
  INFO(message);
  CHECK(contains(message, "step-2.tmp-"));
  CHECK(contains(message, "No space left on device"));
  CHECK(folder_entries(dir / "full") == std::vector<std::string>{"step-1"});
  CHECK(newest_whole_checkpoint(dir / "full")->step == 1);
}

TEST_CASE("a write that is cut short by a file size limit loses nothing and leaves nothing") {
  const TempDir dir;
  const SampleCheckpoint small(1), large(2, kWide);
  save_checkpoint(dir / "step-1", small.content);
  const int code = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string message = message_of<SystemError>([&] { save_checkpoint(dir / "step-2", large.content); });
    return contains(message, "model.safetensors: cannot be written: File too large") ? 0 : 1;
  });
  CHECK(code == 0);
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{"step-1"});
  CHECK(newest_whole_checkpoint(dir.path())->step == 1);
}

TEST_CASE("a read-only folder is the user's to mend") {
  const TempDir dir;
  const SampleCheckpoint next(2);
  const auto refusal = [&](const fs::path& folder) { return message_of<InputError>([&] { save_checkpoint(folder, next.content); }); };
  const Tmpfs disk(dir / "frozen", "size=4m");
  if (disk.mounted()) {
    save_checkpoint(dir / "frozen/step-1", SampleCheckpoint(1).content);
    REQUIRE(disk.make_read_only());
    CHECK(contains(refusal(dir / "frozen/step-2"), "frozen/step-2.tmp-"));
    CHECK(contains(refusal(dir / "frozen/step-2"), "Read-only file system"));
    CHECK(contains(refusal(dir / "frozen/new/step-2"), "frozen/new: cannot be created: Read-only file system"));
    CHECK(load_checkpoint(dir / "frozen/step-1").state.step == 1);
    CHECK(contains(message_of<InputError>([&] { rotate_checkpoints(dir / "frozen", 1, 0, {}); }), "nothing"));
  }
  if (::geteuid() != 0) {
    fs::create_directories(dir / "closed");
    fs::permissions(dir / "closed", fs::perms::owner_read | fs::perms::owner_exec);
    CHECK(contains(refusal(dir / "closed/step-2"), "Permission denied"));
    fs::permissions(dir / "closed", fs::perms::owner_all);
  }
}

TEST_CASE("a file in the way of a folder is named") {
  const TempDir dir;
  overwrite(dir / "checkpoints", "a file");
  const SampleCheckpoint next(2);
  CHECK(
      contains(message_of<InputError>([&] { save_checkpoint(dir / "checkpoints/step-2", next.content); }), (dir / "checkpoints").string()));
  CHECK(read_file(dir / "checkpoints") == "a file");
}

TEST_CASE("free disk is that of the nearest folder that exists") {
  const TempDir dir;
  CHECK(free_disk_bytes(dir / "a/b/c") > 0);
  CHECK_NOTHROW(require_free_disk(dir.path(), 1));
  CHECK(contains(message_of<SystemError>([&] { require_free_disk(dir.path(), ~0ull); }), "18446744073709551615 bytes needed"));
}
