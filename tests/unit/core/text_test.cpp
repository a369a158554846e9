#include "core/text.h"

#include <array>
#include <string>

#include "support/catch.h"

using namespace meristem;

TEST_CASE("numbers read back bit-equal") {
  for (const double x : {0.1, 1e-5, 3e-3, 1.0 / 3, 1e300, -0.0}) CHECK(std::stod(number_text(x)) == x);
}

TEST_CASE("digits are grouped") {
  CHECK(grouped_digits(361821120) == "361,821,120");
  CHECK(grouped_digits(-1000) == "-1,000");
  CHECK(grouped_digits(999) == "999");
}

TEST_CASE("a near miss is suggested, nonsense is not") {
  const std::array<std::string, 3> keys{"depth_plan", "width", "blocks"};
  CHECK(did_you_mean("depth_pln", keys) == "depth_plan");
  CHECK_FALSE(did_you_mean("zzzzzzzz", keys).has_value());
}

TEST_CASE("text from a file fits in a one-line message") {
  CHECK(in_quotes("a\nb\x7f") == "'a\\x0ab\\x7f'");
  CHECK(in_quotes("\xC3\xA9 \xff\xC3") == "'\xC3\xA9 \\xff\\xc3'");
  CHECK(in_quotes("\xC2\x9B") == "'\\xc2\\x9b'");
  CHECK(in_quotes("\xED\xA0\x80") == "'\\xed\\xa0\\x80'");
  CHECK(printable(std::string(500, 'x')).size() < 100);
}
