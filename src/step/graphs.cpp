#include "step/graphs.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/errors.h"
#include "ops/attention_passes.h"

namespace meristem {

GraphCache::Action GraphCache::run(const GraphKey& key, const std::function<void()>& body) {
  if (warm_.insert(key.shape).second) {
    body();
    return Action::kWarmUp;
  }
  const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const auto& entry) { return entry.first == key; });
  const bool known = found != graphs_.end();
  if (known) {
    graphs_.splice(graphs_.begin(), graphs_, found);
  } else {
    if (graphs_.size() == most_) graphs_.pop_back();  // before the capture, so that its memory is free again
    graphs_.emplace_front(key, capture_(body));
  }
  graphs_.front().second->replay();
  return known ? Action::kReplay : Action::kCapture;
}

namespace {

at::ScalarType compute_of(const RunConfig& config) { return config.precision.compute == Precision::kBf16 ? at::kBFloat16 : at::kFloat; }

// Whether this path of attention takes packed documents without the host: it reads their starts on the device.
bool documents_stay_on_device(const RunConfig& config, ops::Path path) {
  const AttentionConfig& attention = config.model.attention;
  const ops::HeadShape heads{attention.heads, attention.kv_heads, attention.head_dim, attention.window, attention.score_cap};
  return path == ops::Path::kFused || (path == ops::Path::kLibrary && ops::flash_takes(compute_of(config), heads));
}

}  // namespace

std::string why_no_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels) {
  if (!device.is_cuda()) return "this run computes on the CPU";
  if (config.optimizer.skip_spikes) return "optimizer.skip_spikes decides on the host before each update";
  for (const std::int64_t window : {std::int64_t{0}, std::int64_t{1}}) {
    if (config.data.document_mask && !documents_stay_on_device(config, paths.attention_of(window)))
      return "data.document_mask needs kernels.attention: fused, or library in bf16 with head dims that are multiples of 8 up to 256";
  }
  if (config.data.document_mask && config.model.depth_attention && config.model.depth_attention->kind == DepthAttentionKind::kJoint) {
    return "data.document_mask with model.depth_attention.kind: joint runs document by document";
  }
  if (config.model.feed_forward.kind == FeedForwardKind::kExperts && paths.experts != ops::Path::kFused)
    return "experts need kernels.experts: fused";
  if (config.model.feed_forward.kind == FeedForwardKind::kExperts && kernels.capability() < 90)
    return fmt::format("experts' products wait for the host on a device of compute capability {}.{}; from 9.0 on they do not",
                       kernels.capability() / 10, kernels.capability() % 10);
  if (paths.adamw == ops::Path::kReference) return "kernels.adamw: reference waits for the host";
  return "";
}

bool uses_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels) {
  const std::string& asked = config.kernels.graph;
  if (asked == "off") return false;
  const std::string reason = why_no_graph(config, device, paths, kernels);
  if (asked == "on" && !reason.empty()) throw InputError(fmt::format("kernels.graph: on cannot run: {}; allowed: off, auto", reason));
  return reason.empty() && (asked == "on" || kernels.proven({"graph", compute_of(config)}));
}

std::optional<GraphDevice> graph_device_of(const RunConfig& config, at::Device device, const ops::Paths& paths) {
  return uses_graph(config, device, paths) ? std::optional(cuda_graph_device(device)) : std::nullopt;
}

}  // namespace meristem
