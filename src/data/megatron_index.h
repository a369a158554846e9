// The .idx file of a Megatron pair (MMIDIDX, version 1), checked completely: nothing in it is trusted.
//   9 bytes magic, u64 version, u8 element code, u64 sequences, u64 document entries,
//   i32 length[sequences], i64 byte offset[sequences], i64 first sequence[document entries]
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace meristem {

struct MegatronIndex {
  std::int64_t element_bytes = 2;           // 2: unsigned, 4: signed
  std::vector<std::int64_t> document_start;  // [documents + 1] in tokens; the last is the number of tokens
};

// bin_bytes: size of the .bin file. DamagedError names the file and the byte offset.
MegatronIndex read_megatron_index(const std::filesystem::path& path, std::uint64_t bin_bytes);

inline constexpr char kMegatronMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr std::uint8_t kMegatronInt32 = 4, kMegatronUint16 = 8;

}  // namespace meristem
