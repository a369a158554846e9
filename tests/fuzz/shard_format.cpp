#include <algorithm>
#include <array>
#include <iterator>

#include "data/shard.h"
#include "fuzz/format.h"
#include "fuzz/mutate.h"
#include "support/shard_writer.h"

namespace meristem::fuzz {
namespace {

constexpr std::int64_t kVocab = 1000;
constexpr std::size_t kHeaderBytes = 34;  // magic 9, version 8, type 1, sequences 8, documents 8

// Written by hand, not with our writer: what other programs write must be readable too.
Files megatron_pair(std::size_t width, const std::vector<std::int64_t>& lengths) {
  const auto append = [](std::string& bytes, std::size_t size, std::uint64_t value) {
    bytes.append(size, '\0');
    put_integer(bytes, bytes.size() - size, size, value);
  };
  std::string bin, idx("MMIDIDX\0\0", 9);
  append(idx, 8, 1);
  append(idx, 1, width == 2 ? 8 : 4);
  append(idx, 8, lengths.size());
  append(idx, 8, lengths.size() + 1);
  for (const std::int64_t length : lengths) append(idx, 4, static_cast<std::uint64_t>(length));
  for (const std::int64_t length : lengths) {
    append(idx, 8, bin.size());
    for (std::int64_t i = 0; i < length; ++i) append(bin, width, static_cast<std::uint64_t>((i * 37 + length) % kVocab));
  }
  for (std::size_t i = 0; i <= lengths.size(); ++i) append(idx, 8, i);
  return {{"tokens.bin", bin}, {"tokens.idx", idx}};
}

// 256 int32 of header, then the ids.
Files llm_c(std::uint64_t magic, std::uint64_t version, std::size_t width) {
  constexpr std::size_t kHeader = 1024, kCount = 100;
  std::string bin(kHeader + kCount * width, '\0');
  put_integer(bin, 0, 4, magic);
  put_integer(bin, 4, 4, version);
  put_integer(bin, 8, 4, kCount);
  for (std::size_t i = 0; i < kCount; ++i) put_integer(bin, kHeader + i * width, width, i * 9);
  return {{"tokens.bin", bin}};
}

// A masked shard as `data tokenize --chat` writes it.
Files with_mask(Files files) {
  const std::string mask("\0\1\1\0\0\1", 6);
  std::string& json = files.at("tokens.json");
  json.replace(json.find("\"format_version\": 1"), 19, "\"format_version\": 2, \"trained_tokens\": 3");
  json.replace(json.find("\"files\": {"), 10, "\"files\": {\"mask\": {\"bytes\": 6, \"xxh3\": \"0123456789abcdef\"},");
  files["tokens.mask"] = mask;
  return files;
}

// And one whose texts begin with an id and were rendered by a template.
Files with_texts(Files files) {
  const std::string chat_template = "{{ bos_token }}";
  const std::string hash = xxh3_hex(std::as_bytes(std::span(chat_template)));
  std::string& json = files.at("tokens.json");
  json.replace(json.find("\"format_version\": 2"), 19,
               "\"format_version\": 3, \"begin_of_text\": [1], \"chat_template\": \"" + chat_template + "\", \"chat_template_hash\": \"" +
                   hash + "\"");
  return files;
}

class Shard : public Format {
 public:
  std::string name() const override { return "shard"; }

  std::vector<Files> seeds(const std::filesystem::path& scratch) const override {
    std::vector<Files> out{megatron_pair(2, {5, 1, 17, 64}), megatron_pair(4, {3, 9}), megatron_pair(2, {300}), llm_c(20240520, 1, 2),
                           llm_c(20240801, 7, 4)};
    out.push_back({{"tokens.bin", out[0].at("tokens.bin")}});  // bare ids
    test::ShardWriter writer(scratch / "tokens", {.vocab_size = kVocab, .tokenizer_hash = "0123456789abcdef"});
    for (const std::vector<std::int32_t>& document : {std::vector<std::int32_t>{1, 2, 3}, {999}, {}, {7, 7}}) writer.add_document(document);
    writer.finish();
    out.push_back(files_below(scratch));  // with its manifest
    out.push_back(with_mask(out.back()));
    out.push_back(with_texts(out.back()));
    out.push_back(out[1]);
    out.back()["tokens.mask"] = std::string("\0\1\1\0\0\1\0\1\1\0\0\1", 12);  // without a manifest
    return out;
  }

  void mutate(Files& files, const Files& other, Dice& dice) const override {
    for (std::size_t i = 0; i <= dice.below(3); ++i) {
      const auto file = std::next(files.begin(), static_cast<std::ptrdiff_t>(dice.below(files.size())));
      const auto twin = other.find(file->first);
      std::string& bytes = file->second;
      const std::size_t what = dice.below(10);
      if (what == 0) {
        files.erase(file);
        return;
      }
      if (what == 1 && twin != other.end()) {
        bytes = dice.chance(0.5) ? twin->second : bytes.substr(0, dice.below(bytes.size() + 1)) + twin->second;
      } else if (file->first.ends_with(".json")) {
        mutate_text(bytes, dice);
      } else if (file->first.ends_with(".idx") && what < 8) {
        mutate_field(bytes, dice);
      } else if (file->first.ends_with(".bin") && files.size() == 1 && what < 6) {
        const std::size_t at = 4 * dice.below(3);
        put_integer(bytes, at, 4, extreme_integer(dice, get_integer(bytes, at, 4)));
      } else {
        mutate_bytes(bytes, dice);
      }
    }
  }

  void read(const std::filesystem::path& folder) const override {
    const TokenSource source = TokenSource::open(folder / "tokens");
    std::vector<std::int32_t> tokens;
    std::vector<std::uint8_t> mask;
    std::int64_t total = 0;
    for (std::int64_t document = 0; document < source.num_documents(); ++document) {
      const std::int64_t length = source.document_length(document);
      total += length;
      tokens.resize(static_cast<std::size_t>(length));
      source.read(document, 0, length, tokens.data(), kVocab);
      for (const std::int32_t token : tokens) {
        if (token < 0 || token >= kVocab) throw std::logic_error("a token outside the vocabulary came through");
      }
      mask.resize(tokens.size());
      source.read_mask(document, 0, length, mask.data());
      if (std::any_of(mask.begin(), mask.end(), [](std::uint8_t m) { return m > 1; }))
        throw std::logic_error("a mask of other values came through");
    }
    if (total != source.num_tokens()) throw std::logic_error("documents and tokens do not add up");
  }

 private:
  // One of the index's integers, at its true place and width.
  static void mutate_field(std::string& idx, Dice& dice) {
    struct Field {
      std::size_t at, width;
    };
    static constexpr std::array<Field, 5> kHeader{{{0, 8}, {9, 8}, {17, 1}, {18, 8}, {26, 8}}};
    Field field = dice.pick(kHeader);
    const std::size_t sequences = static_cast<std::size_t>(std::min<std::uint64_t>(get_integer(idx, 18, 8), 1000));
    if (dice.chance(0.7) && idx.size() > kHeaderBytes) {
      const std::size_t entry = dice.below(sequences + 1);
      switch (dice.below(3)) {
        case 0: field = {kHeaderBytes + 4 * entry, 4}; break;
        case 1: field = {kHeaderBytes + 4 * sequences + 8 * entry, 8}; break;
        default: field = {kHeaderBytes + 12 * sequences + 8 * entry, 8}; break;
      }
    }
    put_integer(idx, field.at, field.width, extreme_integer(dice, get_integer(idx, field.at, field.width)));
  }
};

}  // namespace

std::unique_ptr<Format> shard_format() { return std::make_unique<Shard>(); }

}  // namespace meristem::fuzz
