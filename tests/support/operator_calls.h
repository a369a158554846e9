// How often each operator was called.
#pragma once

#include <map>
#include <memory>
#include <string>

#include <ATen/record_function.h>

namespace meristem::test {

// The operators that this thread calls within body(), by name: ours ("meristem::…") and LibTorch's.
template <class Body>
std::map<std::string, int> calls_of(const Body& body) {
  static thread_local std::map<std::string, int> called;
  called.clear();
  const auto count = [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
    ++called[function.name()];
    return nullptr;
  };
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(count).scopes({at::RecordScope::FUNCTION}));
  body();
  at::removeCallback(handle);
  return called;
}

}  // namespace meristem::test
