// Gloo, for ranks on CPUs: LibTorch holds the engine; its headers are Debian's, older than it. So this file alone includes them, and does
// nothing but make the group.
#include <cstdlib>

#include "core/clock.h"
#include "core/errors.h"
#include "distributed/engine.h"

#ifdef MERISTEM_GLOO
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace meristem {

c10::intrusive_ptr<c10d::Backend> gloo_group(const c10::intrusive_ptr<c10d::Store>& store, const RankPlace& place, double timeout_seconds) {
  using Gloo = c10d::ProcessGroupGloo;
  const auto options = Gloo::Options::create(to_milliseconds(timeout_seconds));
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  const bool here = place.master == "localhost" || place.master.rfind("127.", 0) == 0;
  if (interface != nullptr && *interface != '\0') {
    options->devices = {Gloo::createDeviceForInterface(interface)};
  } else {
    options->devices = {here ? Gloo::createDeviceForHostname("127.0.0.1") : Gloo::createDefaultDevice()};
  }
  try {
    return c10::make_intrusive<Gloo>(c10::make_intrusive<c10d::PrefixStore>("gloo", store), place.rank, place.size, options);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    throw SystemError("the ranks cannot connect: " + text.substr(0, text.find('\n')));
  }
}

}  // namespace meristem
#else
namespace meristem {

c10::intrusive_ptr<c10d::Backend> gloo_group(const c10::intrusive_ptr<c10d::Store>&, const RankPlace&, double) {
  throw InputError("several ranks on CPUs: this build has no Gloo; install libgloo-dev and build again");
}

}  // namespace meristem
#endif
