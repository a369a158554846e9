// src/cli/main.cpp and logits.cpp as a server for tests: what a start of the program takes most of its time for, loading LibTorch, is done
// once, and each request is a process of its own, forked from here, with its own arguments, folder, environment and output. The client is
// tests/support/program.py.
//
//   {"arguments": […], "folder": …, "environment": {…}, "stdout": path, "stderr": path}  ->  its process id
//   {"wait": process id}                                                                 ->  its status as waitpid() has it
// A request is a line of JSON on standard input, the answer a line on standard output. The end of the input ends the server.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

extern char** environ;

// main() of src/cli/main.cpp, which is compiled under this name.
int meristem_main(int argc, char** argv);
int logits_main(int argc, char** argv);

namespace {

int opened(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC);
  if (file < 0) std::perror(path.c_str());
  return file;
}

// In the new process. stdin is empty.
[[noreturn]] void become_the_program(const nlohmann::json& request, int out, int err) {
  const int in = opened("/dev/null", O_RDONLY);
  if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0 || ::chdir(request["folder"].get<std::string>().c_str()) != 0)
    ::_exit(99);
  ::clearenv();
  for (const auto& [name, value] : request["environment"].items()) ::setenv(name.c_str(), value.get<std::string>().c_str(), 1);
  auto words = request["arguments"].get<std::vector<std::string>>();
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const auto run = words.front() == "logits" ? logits_main : meristem_main;
  const int code = run(static_cast<int>(words.size()), argv.data());
  std::fflush(nullptr);
  ::_exit(code);  // LibTorch's destructors take a tenth of a second, and have nothing to say
}

long long answer(const nlohmann::json& request) {
  if (request.contains("wait")) {
    int status = 0;
    return ::waitpid(request["wait"].get<pid_t>(), &status, 0) < 0 ? -1 : status;
  }
  // Opened before the fork: once the client has its answer it may close its own ends.
  const int out = opened(request["stdout"], O_WRONLY), err = opened(request["stderr"], O_WRONLY);
  const pid_t child = ::fork();
  if (child == 0) become_the_program(request, out, err);
  ::close(out);
  ::close(err);
  return child;
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::printf("%lld\n", answer(nlohmann::json::parse(line)));
    std::fflush(stdout);
  }
  return 0;
}
