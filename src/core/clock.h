// Time as a run measures it.
#pragma once

#include <chrono>
#include <cstdint>

namespace meristem {

// Seconds of a clock that only goes forward; its zero means nothing.
inline double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

inline std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

}  // namespace meristem
