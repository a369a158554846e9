#include "train/graph_cache.h"

#include <algorithm>

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

void GraphCache::clear() {
  graphs_.clear();
  warm_.clear();
}

}  // namespace meristem
