// NCCL, for ranks on GPUs.
#include "core/clock.h"
#include "core/errors.h"
#include "distributed/engine.h"

#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace meristem {

c10::intrusive_ptr<c10d::Backend> nccl_group(const c10::intrusive_ptr<c10d::Store>& store, const RankPlace& place, double timeout_seconds) {
  using Nccl = c10d::ProcessGroupNCCL;
  const auto options = Nccl::Options::create(/*is_high_priority_stream=*/true);
  options->timeout = to_milliseconds(timeout_seconds);
  try {
    return c10::make_intrusive<Nccl>(c10::make_intrusive<c10d::PrefixStore>("nccl", store), place.rank, place.size, options);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    throw SystemError("the ranks cannot connect: " + text.substr(0, text.find('\n')));
  }
}

}  // namespace meristem
#else
namespace meristem {

c10::intrusive_ptr<c10d::Backend> nccl_group(const c10::intrusive_ptr<c10d::Store>&, const RankPlace&, double) {
  throw InputError("several ranks on GPUs: this build has no NCCL; build with CUDA linked (MERISTEM_CUDA=LINK)");
}

}  // namespace meristem
#endif
