// The mask's arithmetic by itself, against every pair. What `hides_any` says too often changes no result, so no problem would show it.
#include <string>

#include "attention/place.h"

namespace meristem::test {

std::string wrong_places();

namespace {

namespace detail = kernels::detail;

struct Limits {
  int left, right, length;
};

bool sees(const Limits& limits, int query, int key) {
  return key >= 0 && key < limits.length && (limits.left < 0 || key >= query - limits.left) &&
         (limits.right < 0 || key <= query + limits.right);
}

std::string text(const Limits& limits) {
  return "window " + std::to_string(limits.left) + ", " + std::to_string(limits.right) + ", length " + std::to_string(limits.length);
}

std::string wrong_window(const Limits& limits) {
  kernels::AttentionShape shape{};
  shape.window_left = limits.left;
  shape.window_right = limits.right;
  const detail::Window window = detail::window_of(shape, limits.length);
  for (int query = 0; query < limits.length; ++query) {
    for (int key = 0; key < limits.length; ++key) {
      if (sees(limits, query, key) != (key >= window.first(query) && key <= window.last(query)))
        return text(limits) + ": key " + std::to_string(key) + " of query " + std::to_string(query);
    }
    if (window.first(query) < 0 || window.last(query) >= limits.length) return text(limits) + ": a key that the document does not have";
  }
  // Tiles of queries within the document, and of keys that may reach beyond it.
  for (int queries = 1; queries <= 4; ++queries) {
    for (int keys = 1; keys <= 4; ++keys) {
      for (int query = 0; query + queries <= limits.length; ++query) {
        for (int key = 0; key < limits.length; ++key) {
          bool hidden = false;
          for (int pair = 0; pair < queries * keys; ++pair) hidden |= !sees(limits, query + pair / keys, key + pair % keys);
          if (detail::hides_any(window, query, queries, key, keys) != hidden)
            return text(limits) + ": hides_any of " + std::to_string(queries) + " queries and " + std::to_string(keys) + " keys";
        }
      }
    }
  }
  return "";
}

}  // namespace

// Empty, or the first limit of a window or tile that needs no mask which is not as it should be.
std::string wrong_places() {
  for (int left = -1; left <= 7; ++left) {
    for (int right = -1; right <= 7; ++right) {
      for (int length = 1; length <= 6; ++length) {
        if (const std::string wrong = wrong_window({left, right, length}); !wrong.empty()) return wrong;
      }
    }
  }
  return "";
}

}  // namespace meristem::test
