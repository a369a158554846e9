#include "core/file.h"

#include <csignal>

#include <sys/resource.h>

#include "core/errors.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace meristem {
namespace {

TEST_CASE("a file is replaced whole, or stays as it was") {
  const test::TempDir dir;
  const std::filesystem::path path = dir / "config.yaml";
  replace_file_durably(path, "first");
  replace_file_durably(path, "second");
  CHECK(read_file(path) == "second");

  // No file may grow beyond 10 bytes, as under a quota.
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const struct rlimit small {
    10, before.rlim_max
  };
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  CHECK_THROWS_AS(replace_file_durably(path, std::string(1000, 'x')), SystemError);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(read_file(path) == "second");
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{"config.yaml"});
}

}  // namespace
}  // namespace meristem
