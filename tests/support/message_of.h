// What an action says when it fails.
#pragma once

#include <exception>
#include <string>

namespace meristem::test {

// The message of the E that `action` throws; "nothing" or "another error: …" else.
template <class E, class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another error: ") + error.what();
  }
  return "nothing";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace meristem::test
