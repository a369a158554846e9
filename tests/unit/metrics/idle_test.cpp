#include "metrics/idle.h"

#include "support/catch.h"

using namespace meristem;

TEST_CASE("idle is what no interval covers between the first and the last") {
  CHECK(idle_share({}) == 0);
  CHECK(idle_share({{100, 100}}) == 0);
  CHECK(idle_share({{100, 200}}) == 0);
  CHECK(idle_share({{100, 140}, {180, 200}}) == Approx(0.4));
  CHECK(idle_share({{180, 200}, {100, 140}}) == Approx(0.4));               // in any order
  CHECK(idle_share({{100, 190}, {110, 120}, {195, 200}}) == Approx(0.05));  // one within another
  CHECK(idle_share({{100, 150}, {120, 180}, {190, 200}}) == Approx(0.1));   // one over another's end
}
