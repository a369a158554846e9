#include "metrics/jsonl.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <sys/stat.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

TEST_CASE("a line keeps the order of its keys and the type of its values") {
  const std::map<std::string, double> by_source{{"b", 1.0}, {"a", 2.0}};
  const MetricsLine line{{"step", 3}, {"loss", 2.5}, {"event", "growth"}, {"ok", true}, {"loss_by_source", by_source}};
  CHECK(metrics_json(line) == R"({"step": 3, "loss": 2.5, "event": "growth", "ok": true, "loss_by_source": {"a": 2.0, "b": 1.0}})");
  CHECK(metrics_json({}) == "{}");
}

TEST_CASE("doubles read back bit-equal, and as floating point") {
  std::vector<double> values{0.0,
                             -0.0,
                             1.0,
                             3.0,
                             -7.0,
                             0.1,
                             1e22,
                             1e300,
                             123456789012345680.0,
                             18446744073709551616.0,
                             std::numeric_limits<double>::denorm_min(),
                             std::numeric_limits<double>::max(),
                             static_cast<double>(2.3f)};
  std::uint64_t bits = 0x9E3779B97F4A7C15u;
  for (int i = 0; i < 2000; ++i) {
    bits = bits * 6364136223846793005u + 1442695040888963407u;
    if (const double value = std::bit_cast<double>(bits); std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    const nlohmann::json read = parse_json_strict(metrics_json({{"x", value}}), "line").at("x");
    REQUIRE(read.is_number_float());
    REQUIRE(std::bit_cast<std::uint64_t>(read.get<double>()) == std::bit_cast<std::uint64_t>(value));
  }
}

TEST_CASE("what JSON has no number for is a string, and costs nothing else of the line") {
  const double inf = std::numeric_limits<double>::infinity();
  const std::map<std::string, double> inner{{"x", std::nan("")}};
  const MetricsLine line{{"step", 1}, {"loss", std::nan("")}, {"a", inf}, {"b", -inf}, {"m", inner}, {"lr", 0.5}};
  CHECK(metrics_json(line) == R"({"step": 1, "loss": "nan", "a": "inf", "b": "-inf", "m": {"x": "nan"}, "lr": 0.5})");
}

TEST_CASE("any text stays one line of strict JSON") {
  const std::string text = "quote \" backslash \\ newline \n tab \t nul " + std::string(1, '\0') + " bad utf8 \xff é";
  const std::string json = metrics_json({{"text", text}});
  CHECK(json.find('\n') == std::string::npos);
  CHECK(parse_json_strict(json, "line").at("text").get<std::string>().find("backslash \\ newline \n tab") != std::string::npos);
}

TEST_CASE("the log appends whole lines, also to a file that ends in a torn one") {
  const TempDir folder;
  const auto path = folder / "metrics.jsonl";
  MetricsLog(path).append({{"step", 1}});
  MetricsLog(path).append({{"step", 2}});
  CHECK(read_file(path) == "{\"step\": 1}\n{\"step\": 2}\n");
  std::ofstream(path, std::ios::app) << "{\"step\": 3, \"lo";
  MetricsLog(path).append({{"step", 4}});
  CHECK(read_file(path) == "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3, \"lo\n{\"step\": 4}\n");
}

TEST_CASE("a log that cannot be opened or written names its file") {
  const TempDir folder;
  CHECK_THROWS_AS(MetricsLog(folder / "no" / "metrics.jsonl"), InputError);
  try {
    MetricsLog("/dev/full").append({{"step", 1}});
    FAIL("a full disk went unnoticed");
  } catch (const SystemError& error) {
    CHECK(std::string(error.what()).find("/dev/full") != std::string::npos);
  }
}
