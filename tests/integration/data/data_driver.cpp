// The C++ side of text_tools.py: writes and reads shards, says what a loader hands out.
//   data_driver write PREFIX VOCAB        one document a line of stdin, ids separated by spaces
//   data_driver read PREFIX VOCAB         the same form on stdout
//   data_driver targets PREFIX VOCAB T N  the targets of the first N sequences, one sequence a line
//   data_driver rows PREFIX VOCAB T N SEED NAME PACKING  the first N sequences of a run whose only source is NAME, three lines each:
//                                         inputs, targets, where segments begin and end
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "core/errors.h"
#include "data/loader.h"
#include "data/shard.h"
#include "support/run_main.h"
#include "support/shard_writer.h"

namespace {

using namespace meristem;

void print_ids(const std::vector<std::int32_t>& ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i == 0 ? "" : " ", ids[i]);
  std::printf("\n");
}

void write(const std::string& prefix, std::int64_t vocab_size) {
  test::ShardWriter writer(prefix, {vocab_size, ""});
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::vector<std::int32_t> document;
    for (std::int32_t id; words >> id;) document.push_back(id);
    writer.add_document(document);
  }
  writer.finish();
}

void read(const std::string& prefix, std::int64_t vocab_size) {
  const TokenSource source = TokenSource::open(prefix);
  for (std::int64_t i = 0; i < source.num_documents(); ++i) {
    std::vector<std::int32_t> document(static_cast<std::size_t>(source.document_length(i)));
    source.read(i, 0, source.document_length(i), document.data(), vocab_size);
    print_ids(document);
  }
}

void targets(const std::string& prefix, std::int64_t vocab_size, std::int64_t length, std::int64_t sequences) {
  DataConfig config;
  config.sequence_length = length;
  config.sources = {{"x", {prefix, 0}}};
  Loader loader(config, {}, 1, vocab_size, 1);
  for (std::int64_t i = 0; i < sequences; ++i) print_ids(loader.next(1).targets);
}

void rows(const std::vector<std::string>& words) {
  DataConfig config;
  config.sequence_length = std::stoll(words[3]);
  config.packing = choice_of<Packing>(words[7]).value();
  config.sources = {{words[6], {words[1], 0}}};
  Loader loader(config, {}, 1, std::stoll(words[2]), std::stoll(words[5]));
  for (std::int64_t i = 0; i < std::stoll(words[4]); ++i) {
    const HostBatch row = loader.next(1);
    print_ids(row.inputs);
    print_ids(row.targets);
    print_ids(row.boundaries);
  }
}

void run(const std::vector<std::string>& words) {
  if (words.size() >= 3 && words[0] == "write") {
    write(words[1], std::stoll(words[2]));
  } else if (words.size() >= 3 && words[0] == "read") {
    read(words[1], std::stoll(words[2]));
  } else if (words.size() == 5 && words[0] == "targets") {
    targets(words[1], std::stoll(words[2]), std::stoll(words[3]), std::stoll(words[4]));
  } else if (words.size() == 8 && words[0] == "rows") {
    rows(words);
  } else {
    throw InputError("usage: data_driver write|read|targets|rows PREFIX VOCAB …");
  }
}

}  // namespace

int main(int argc, char** argv) { return meristem::test::run_main(argc, argv, run); }
