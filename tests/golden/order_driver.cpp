// golden_order: for each line "SEED EPOCH DOCUMENTS NAME" on standard input the order of the documents of that source in that epoch, as a
// run reads them from a shard. order_test.py compares.
#include <iostream>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "data/rows.h"
#include "support/shard_writer.h"
#include "support/temp_dir.h"

using namespace meristem;

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::uint64_t seed = 0;
    std::int64_t epoch = 0, documents = 0;
    std::string name;
    words >> seed >> epoch >> documents >> name;
    const test::TempDir folder;
    // One token a document: the slices of an epoch are the documents in order.
    test::ShardWriter shard(folder / "shard", {64, ""});
    for (std::int64_t d = 0; d < documents; ++d) shard.add_document(std::vector<std::int32_t>{1});
    shard.finish();
    TokenStream stream(std::make_shared<const TokenSource>(TokenSource::open(folder / "shard")), seed, name);
    std::vector<std::int64_t> order;
    for (const DocumentSlice& slice : stream.slices(epoch * documents, documents)) order.push_back(slice.document);
    std::cout << fmt::format("{}\n", fmt::join(order, " "));
  }
}
