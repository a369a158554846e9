// The configuration reference, docs/configuration.md, written from the schema; a test holds the page against it.
#pragma once

#include <string>

namespace meristem {

std::string configuration_reference();

}  // namespace meristem
