// The Python of the project's environment, for tests that check our files with other people's readers.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <sys/wait.h>

#include "support/temp_dir.h"

namespace meristem::test {

// MERISTEM_PYTHON from the environment, else the one that stands beside the LibTorch of this build.
inline std::optional<std::string> find_python() {
  if (const char* given = std::getenv("MERISTEM_PYTHON"); given != nullptr && *given != '\0') return given;
#ifdef MERISTEM_BUILD_PYTHON
  if (std::filesystem::exists(MERISTEM_BUILD_PYTHON)) return MERISTEM_BUILD_PYTHON;
#endif
  return std::nullopt;
}

struct PythonResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};

// Runs a program text; `arguments` are shell words (quote what needs it).
inline PythonResult run_python(const std::string& python, const std::string& program, const std::string& arguments) {
  const TempDir folder;
  std::ofstream(folder / "program.py") << program;
  const std::string command = "'" + python + "' '" + (folder / "program.py").string() + "' " + arguments + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  PythonResult result;
  std::array<char, 4096> chunk{};
  for (std::size_t got = 0; (got = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) result.output.append(chunk.data(), got);
  const int status = ::pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

}  // namespace meristem::test
