// What publishing must never do: the folder has its final name, and a manifest that lists nothing, before its data is written. The storms
// and the judge of the order of calls have to find it.
#pragma once

#include <filesystem>
#include <memory>

#include "checkpoint/publish.h"
#include "checkpoint/store.h"
#include "core/file.h"

namespace meristem::test {

class PublishedFirst : public PendingFolder {
 public:
  explicit PublishedFirst(const std::filesystem::path& final_path) : PendingFolder(final_path) {
    const std::int64_t step = checkpoint_step(final_path.filename().string()).value_or(0);
    write_file_durably(path() / "manifest.json", manifest_json({step, {}}));
    PendingFolder::publish();
  }
  void publish() override {}
};

inline std::unique_ptr<PendingFolder> make_published_first(const std::filesystem::path& final_path) {
  return std::make_unique<PublishedFirst>(final_path);
}

}  // namespace meristem::test
