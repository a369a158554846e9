// Host batches as the model takes them.
#pragma once

#include <memory>

#include "config/run_config.h"
#include "data/batch.h"
#include "data/loader.h"
#include "models/model.h"

namespace meristem {

// The loader of a config: phases begin at steps, amounts in tokens resolved.
std::unique_ptr<Loader> make_loader(const RunConfig& config);

Batch to_device(const HostBatch& host, at::Device device);
// Tokens of the batch that have a target.
std::int64_t count_targets(const HostBatch& host);

}  // namespace meristem
