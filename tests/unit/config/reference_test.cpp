#include "config/reference.h"

#include "core/file.h"
#include "support/catch.h"

namespace meristem {
namespace {

TEST_CASE("docs/configuration.md is what the schema says") {
  const std::string page = read_file(MERISTEM_SOURCE_DIR "/docs/configuration.md");
  INFO("write it anew: meristem config-reference > docs/configuration.md");
  CHECK((page == configuration_reference()));
}

TEST_CASE("the reference has every section and every kind of key") {
  const std::string page = configuration_reference();
  for (const char* part :
       {"## run", "## model", "## growth", "## data", "## phases", "## optimizer", "## schedule", "## batch", "## precision", "## kernels",
        "## checkpoint", "## logging", "`model.attention.heads`", "`data.sources.NAME.path`", "`data.validation.NAME.path`",
        "`phases[].mixture.NAME`", "`checkpoint.async`", "`growth.operator`"}) {
    INFO(part);
    CHECK(page.find(part) != std::string::npos);
  }
}

}  // namespace
}  // namespace meristem
