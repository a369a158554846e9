#include "run/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <system_error>

#include <fcntl.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/version.h>
#include <nlohmann/json.hpp>

#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "data/loader.h"
#include "interop/hf_folder.h"

extern char** environ;

namespace meristem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = "lock";

void create_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return;
  errno = error.value();
  throw_errno(folder, "cannot be created");
}

std::string first_match(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const auto colon = line.find(':');
    if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return "unknown";
}

// The checked-out commit of the source tree, read from its .git: no process is started for it.
std::string commit_of(const char* root) {
  if (root == nullptr) return "unknown";
  const fs::path git = fs::path(root) / ".git";
  std::ifstream head(git / "HEAD");
  std::string line;
  if (!std::getline(head, line)) return "unknown";
  if (line.rfind("ref: ", 0) != 0) return line;
  std::ifstream ref(git / line.substr(5));
  return std::getline(ref, line) ? line : "unknown";
}

// ---- The lock's file says who holds it.

std::string holder_of(int descriptor) {
  char text[512] = {};
  const ssize_t bytes = ::pread(descriptor, text, sizeof text - 1, 0);
  const std::string holder(text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  return holder.empty() ? "it is starting" : holder.substr(0, holder.find('\n'));
}

[[noreturn]] void refuse_running(const fs::path& root, const std::string& holder) {
  throw InputError(fmt::format("{}: another job is running in this folder ({})", root.string(), holder));
}

// For people: a full disk does not matter here, and is said of the next file.
void write_holder(int descriptor) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string text = fmt::format("{}, process {}\n", host, ::getpid());
  [[maybe_unused]] const bool written = ::ftruncate(descriptor, 0) == 0 && ::pwrite(descriptor, text.data(), text.size(), 0) > 0;
}

bool is_at(const fs::path& path, int descriptor) {
  struct stat opened {
  }, there{};
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &there) == 0 && opened.st_ino == there.st_ino &&
         opened.st_dev == there.st_dev;
}

}  // namespace

std::map<std::string, std::string> environment_of(const RunConfig& config, const std::string& device) {
  return {{"version", MERISTEM_VERSION},
          {"commit", commit_of(std::getenv("MERISTEM_ROOT"))},
          {"torch", TORCH_VERSION},
          {"cpu", first_match("/proc/cpuinfo", "model name")},
          {"threads", std::to_string(at::get_num_threads())},
          {"device", device},
          {"seed", std::to_string(config.run.seed)}};
}

RunFolder RunFolder::existing(const RunConfig& config) { return RunFolder(fs::path(config.run.out) / config.run.name); }

RunFolder::Lock::~Lock() {
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

std::unique_ptr<RunFolder::Lock> RunFolder::lock() const {
  const fs::path path = root_ / kLock;
  for (;;) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) throw_errno(path, "cannot be opened");
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      const std::string holder = holder_of(descriptor);
      ::close(descriptor);
      errno = reason;
      if (reason != EWOULDBLOCK) throw_errno(path, "cannot be locked");
      refuse_running(root_, holder);
    }
    if (!is_at(path, descriptor)) {  // its holder has just removed it: the next one is another file
      ::close(descriptor);
      continue;
    }
    auto lock = std::make_unique<Lock>(path, descriptor);
    write_holder(descriptor);
    return lock;
  }
}

void RunFolder::refuse_if_running() const {
  const int descriptor = ::open((root_ / kLock).c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  const bool held = ::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  const std::string holder = held ? holder_of(descriptor) : "";
  ::close(descriptor);
  if (held) refuse_running(root_, holder);
}

void RunFolder::refuse_if_used() const {
  std::error_code ignored;
  if (!fs::exists(root_, ignored)) return;
  if (fs::is_directory(root_, ignored)) {
    const std::vector<std::string> entries = folder_entries(root_);
    if (entries.empty() || entries == std::vector<std::string>{kLock}) return;  // one that died before it wrote anything
  }
  throw InputError(fmt::format("{}: the run folder exists; go on with --resume auto, or choose another run.name", root_.string()));
}

namespace {

// What is needed to go on with the tokenizer of the training data: itself and what belongs to it, the chat template that rendered the data,
// and what stands before and behind every text.
void keep_text_files(const DataConfig& data, const fs::path& folder) {
  if (!data.tokenizer.empty()) {
    copy_companions(fs::path(data.tokenizer).parent_path(), folder, /*config=*/true);
    replace_file_durably(folder / "tokenizer.json", read_file(data.tokenizer, 256ull << 20));  // its own name may be another
  }
  const TextMaking making = text_making(data);
  if (!making.chat_template.empty()) replace_file_durably(folder / "chat_template.jinja", making.chat_template);
  nlohmann::ordered_json text;
  if (making.begin_of_text) text["begin_of_text"] = *making.begin_of_text;
  if (making.end_of_text) text["end_of_text"] = *making.end_of_text;
  if (!making.end_of_turn.empty()) text["end_of_turn"] = making.end_of_turn;
  if (!text.empty()) replace_file_durably(folder / "text.json", text.dump() + "\n");
}

}  // namespace

RunFolder RunFolder::open(const RunConfig& config, bool new_run, std::unique_ptr<Lock>& lock) {
  RunFolder folder = existing(config);
  if (new_run) folder.refuse_if_used();
  create_folder(folder.root_);
  lock = folder.lock();
  if (new_run) folder.refuse_if_used();  // another job may have been as quick, and be gone again
  for (const fs::path& part : {folder.checkpoints(), folder.samples(), folder.root_ / "plots"}) create_folder(part);
  if (config.logging.tensorboard) create_folder(folder.tensorboard());
  replace_file_durably(folder.root_ / "config.yaml", dump_config(config));
  keep_text_files(config.data, folder.root_);
  return folder;
}

std::string run_script(const std::string& name, const std::vector<std::string>& arguments) {
  const char* python = std::getenv("MERISTEM_PYTHON");
  const char* root = std::getenv("MERISTEM_ROOT");
  if (python == nullptr || root == nullptr) return "started without scripts/meristem";
  std::vector<std::string> words{python, std::string(root) + "/scripts/python", name};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  if (::posix_spawn(&child, python, nullptr, nullptr, argv.data(), environ) != 0) return fmt::format("{} did not start", python);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  return fmt::format("{} {} failed", words[1], name);
}

std::string draw_plots(const RunFolder& folder) {
  const std::string trouble = run_script("plot", {folder.root().string()});
  return trouble.empty() ? "" : fmt::format("plots not drawn: {}; draw them with scripts/meristem plot", trouble);
}

}  // namespace meristem
