#include "data/batch.h"

namespace meristem {

HostBatch assemble(const std::vector<SequenceRow>& rows) {
  HostBatch batch;
  batch.sequences = static_cast<std::int64_t>(rows.size());
  batch.length = rows.empty() ? 0 : static_cast<std::int64_t>(rows.front().inputs.size());
  const auto append = [](std::vector<std::int32_t>& to, const std::vector<std::int32_t>& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (const SequenceRow& row : rows) {
    for (const std::int32_t start : row.segment_starts) batch.boundaries.push_back(static_cast<std::int32_t>(batch.inputs.size()) + start);
    append(batch.inputs, row.inputs);
    append(batch.targets, row.targets);
    append(batch.positions, row.positions);
    batch.source.push_back(row.source);
  }
  batch.boundaries.push_back(static_cast<std::int32_t>(batch.inputs.size()));
  return batch;
}

}  // namespace meristem
