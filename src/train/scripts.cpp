#include "train/scripts.h"

#include <cerrno>
#include <cstdlib>

#include <spawn.h>
#include <sys/wait.h>

#include <fmt/format.h>

extern char** environ;

namespace meristem {

std::string run_script(const std::string& name, const std::vector<std::string>& arguments) {
  const char* python = std::getenv("MERISTEM_PYTHON");
  const char* root = std::getenv("MERISTEM_ROOT");
  if (python == nullptr || root == nullptr) return "started without scripts/meristem";
  std::vector<std::string> words{python, std::string(root) + "/scripts/python/" + name};
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
  return fmt::format("{} failed", words[1]);
}

}  // namespace meristem
