// How the checks of a config say no.
#pragma once

#include <utility>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {

template <class... Arguments>
[[noreturn]] void refuse(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw InputError(fmt::format(text, std::forward<Arguments>(arguments)...));
}

}  // namespace meristem
