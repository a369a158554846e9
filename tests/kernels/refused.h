// What a call is refused with.
#pragma once

#include <stdexcept>
#include <string>

namespace meristem::test {

// The message of the std::invalid_argument that call() throws; empty where it throws none.
template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// Empty where call() is refused with a message that holds `part`.
template <class Call>
std::string not_refused(const std::string& part, const Call& call) {
  const std::string refusal = refusal_of(call);
  if (refusal.empty()) return part + ": is not refused";
  return refusal.find(part) != std::string::npos ? "" : part + ": refused with \"" + refusal + "\"";
}

}  // namespace meristem::test
