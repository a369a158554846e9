// Errors by cause. A library throws one of these; `main` catches once, prints one line and returns the exit code.
// Exit codes are part of the contract with users: see docs/errors.md.
#pragma once

#include <stdexcept>
#include <string>

namespace meristem {

enum class ExitCode : int {
  kOk = 0,
  kInternal = 1,     // anything else, a full disk included
  kUserInput = 2,    // the user's input is wrong: config, arguments, a read-only folder
  kNonFinite = 3,    // training stopped on a non-finite value
  kDamaged = 4,      // a checkpoint or data file is damaged
  kInterrupted = 75  // stopped by a signal after saving
};

// Base of all errors whose message is meant for the user: one line, naming the place, what was found, what is allowed.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

// The user's input is wrong (exit 2): a config key, an argument, a folder that cannot be written.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitCode::kUserInput, message) {}
};

// A file is damaged (exit 4): names the file and the offset or key.
class DamagedError : public Error {
 public:
  explicit DamagedError(const std::string& message) : Error(ExitCode::kDamaged, message) {}
};

// A loss or a gradient stopped being finite (exit 3): names the step. Or a weight or a score is not: names the tensor or the item.
class NonFiniteError : public Error {
 public:
  explicit NonFiniteError(const std::string& message) : Error(ExitCode::kNonFinite, message) {}
};

// The machine failed us (exit 1): disk full, I/O error.
class SystemError : public Error {
 public:
  explicit SystemError(const std::string& message) : Error(ExitCode::kInternal, message) {}
};

}  // namespace meristem
