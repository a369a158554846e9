// The message with which a call refuses its input.
#pragma once

#include <functional>
#include <string>

#include "core/errors.h"

namespace meristem {

// What the InputError said, or "accepted". Any other exception passes through and fails the test.
inline std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

inline bool mentions(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

}  // namespace meristem
