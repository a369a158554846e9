// The main program of a kernel's problems on the CPU layer (on_cpu.h).
//
//     PROGRAM                           the kernel's test: every problem of every part
//     PROGRAM --planted TABLE           the same kernels with faults in them (mutation/plant.py): each must be found, as what it is
//     PROGRAM PART LIMIT [NUMBER...]    a mutant (mutation/mutate.py): one part's problems, those with the numbers first, until one fails;
//                                       LIMIT: CPU seconds of one problem
//
// A fault is printed as "KIND: NUMBER: NAME: what". A mutant without one prints "sound" and the slowest problem's seconds.
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/on_cpu.h"

namespace meristem::test {

int planted_fault = -1;  // the switch that plant.py puts beside a kernel's faults; -1: none

namespace {

char running[160];  // what the signal's handler says

void out_of_time(int) {
  const std::string_view text(running);
  if (write(STDOUT_FILENO, text.data(), text.size()) < 0) std::_Exit(2);
  std::_Exit(1);
}

// A change may well loop for ever, or ask for all of the memory.
void limit_time(double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  const itimerval timer{{0, 0}, {whole, static_cast<suseconds_t>((seconds - static_cast<double>(whole)) * 1e6)}};
  std::signal(SIGVTALRM, out_of_time);
  setitimer(ITIMER_VIRTUAL, &timer, nullptr);
}
void limit_memory() {
  const rlimit memory{std::size_t{4} << 30, std::size_t{4} << 30};
  setrlimit(RLIMIT_AS, &memory);
}

// "KIND: NUMBER: NAME: what", empty where the problem is solved.
std::string solve(const std::vector<Problem>& problems, std::size_t number) {
  static constexpr const char* kKinds[] = {"race", "in flight", "bounds", "misaligned", "divergence", "deadlock"};
  const std::string place = std::to_string(number) + ": " + problems[number].name;
  std::snprintf(running, sizeof running, "time: %s: over the limit\n", place.c_str());
  std::string found;
  try {
    found = problems[number].faults();
  } catch (const dev::host::Report& report) {
    found = std::string(kKinds[static_cast<int>(report.fault)]) + ": " + report.what();
  } catch (const std::exception& error) {
    found = std::string("refused: ") + error.what();
  }
  if (found.empty()) return "";
  const std::size_t colon = found.find(':');
  return found.substr(0, colon) + ": " + place + ":" + found.substr(colon + 1);
}

double seconds_since(std::clock_t begin) { return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC; }

int test_all() {
  int failed = 0;
  for (const Part& part : parts()) {
    const std::clock_t begin = std::clock();
    for (std::size_t i = 0; i < part.problems.size(); ++i) {
      const std::string found = solve(part.problems, i);
      if (found.empty()) continue;
      std::printf("FAILED: %s: %s\n", part.name.c_str(), found.c_str());
      ++failed;
    }
    std::printf("%s: %zu problems, %.2f s\n", part.name.c_str(), part.problems.size(), seconds_since(begin));
    if (part.problems.empty()) ++failed;
  }
  if (worst_error > 0) std::printf("largest error: %.2f times the same-precision reference's\n", worst_error);
  return failed == 0 ? 0 : 1;
}

const Part* part_of(const std::vector<Part>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Part& part) { return part.name == name; });
  return found == all.end() ? nullptr : &*found;
}

int try_mutant(const std::string& name, double seconds, const std::vector<std::size_t>& first) {
  const std::vector<Part> all = parts();
  const Part* part = part_of(all, name);
  if (part == nullptr) return 2;
  limit_memory();
  std::vector<std::size_t> order = first;
  for (std::size_t i = 0; i < part->problems.size(); ++i) order.push_back(i);
  std::vector<bool> done(part->problems.size());
  double slowest = 0;
  for (const std::size_t i : order) {
    if (done.at(i)) continue;
    done[i] = true;
    limit_time(seconds);
    const std::clock_t begin = std::clock();
    const std::string found = solve(part->problems, i);
    slowest = std::max(slowest, seconds_since(begin));
    limit_time(0);
    if (found.empty()) continue;
    std::printf("%s\n", found.c_str());
    return 1;
  }
  std::printf("sound\n%.3f\n", slowest);
  if (worst_error > 0) std::printf("largest error: %.2f times the same-precision reference's\n", worst_error);
  return 0;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream text(line);
  for (std::string field; std::getline(text, field, '\t');) fields.push_back(field);
  return fields;
}

// A problem of a part, by its number.
using Place = std::pair<const Part*, std::size_t>;

// The first of the places [first, last) whose problem finds something, `last` if none does, and what is said: "KIND: NUMBER: NAME: what",
// or "signal: N". In a process of its own, which may well crash.
std::pair<std::size_t, std::string> find(const std::vector<Place>& places, int fault, std::size_t first, std::size_t last) {
  int ends[2];
  if (pipe(ends) != 0) return {first, "no pipe"};
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    planted_fault = fault;
    limit_memory();
    for (std::size_t at = first; at < last; ++at) {
      std::printf("%zu\t", at);
      std::fflush(stdout);
      limit_time(20);
      const std::string found = solve(places[at].first->problems, places[at].second);
      std::printf("%s\n", found.c_str());
      std::fflush(stdout);
      if (!found.empty()) std::_Exit(1);
    }
    std::_Exit(0);
  }
  close(ends[1]);
  std::string said;
  char text[4096];
  for (ssize_t count = 0; (count = read(ends[0], text, sizeof text)) > 0;) said.append(text, static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!said.empty() && said.back() == '\n') said.pop_back();
  std::vector<std::string> fields = fields_of(said.substr(said.rfind('\n') + 1));  // of the problem that it ended with
  fields.resize(2);
  if (WIFSIGNALED(status)) fields[1] = "signal: " + std::to_string(WTERMSIG(status));
  return fields[1].empty() ? std::pair{last, std::string("sound")} : std::pair{std::stoul(fields[0]), fields[1]};
}

// TABLE: a line with the parts' names, then a line a fault: its part ("" for all of them), its name, the kinds that it may be found as.
// Some problem must find it as one of these, and be solved without it.
int find_planted(const char* table) {
  std::ifstream file(table);
  std::string line;
  std::getline(file, line);
  const std::vector<Part> all = parts();
  const auto places_of = [&](const std::vector<std::string>& names) {
    std::vector<Place> places;
    for (const std::string& name : names) {
      const Part* part = part_of(all, name);
      for (std::size_t i = 0; part != nullptr && i < part->problems.size(); ++i) places.emplace_back(part, i);
    }
    return places;
  };
  const std::vector<std::string> listed = fields_of(line);
  std::map<Place, bool> sound;
  int faults = 0, failed = 0;
  for (; std::getline(file, line); ++faults) {
    const std::vector<std::string> fields = fields_of(line);
    const std::vector<Place> places = places_of(fields.at(0).empty() ? listed : std::vector{fields[0]});
    bool good = false;
    std::string said;
    for (std::size_t at = 0; at < places.size() && !good; ++at) {
      std::tie(at, said) = find(places, faults, at, places.size());
      if (std::find(fields.begin() + 2, fields.end(), said.substr(0, said.find(':'))) == fields.end()) continue;
      const auto [known, is_new] = sound.try_emplace(places[at]);
      if (is_new) known->second = find(places, -1, at, at + 1).second == "sound";
      good = known->second;
    }
    failed += good ? 0 : 1;
    std::printf("%s: %s: %.160s\n", good ? "found" : "FAILED", fields.at(1).c_str(), said.c_str());
  }
  std::printf("%d faults, %d not found as what they are\n", faults, failed);
  return failed == 0 && faults > 0 ? 0 : 1;
}

}  // namespace
}  // namespace meristem::test

int main(int argc, char** argv) {
  using namespace meristem::test;
  if (argc == 1) return test_all();
  if (argc == 3 && argv[1] == std::string("--planted")) return find_planted(argv[2]);
  if (argc < 3) return 2;
  std::vector<std::size_t> first;
  for (int i = 3; i < argc; ++i) first.push_back(std::stoul(argv[i]));
  return try_mutant(argv[1], std::stod(argv[2]), first);
}
