// The end of a test program's main: what went wrong in one line on standard error, and the exit code that goes with it.
#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "core/errors.h"

namespace meristem::test {

template <class Run>
int run_main(int argc, char** argv, const Run& run) {
  try {
    run(std::vector<std::string>(argv + 1, argv + argc));
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace meristem::test
