#include "device/host/math.h"

#include <cstring>

#include "device/host/block.h"

namespace meristem::kernels::device::host {
namespace {

constexpr std::size_t kLanes = kWarp;

struct Rows {
  SharedAddress row;
  std::uint32_t* registers;  // four
};

struct Product {
  float* c;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

void count_rows(const Block::Arguments& arguments, const Site& site) {
  std::uint64_t rows[kLanes];
  for (std::size_t lane = 0; lane < kLanes; ++lane) rows[lane] = static_cast<const Rows*>(arguments[lane])->row;
  Block::current().count_warp_access(site, rows);
}

// Matrix i as the 8 rows that lanes 8i to 8i + 7 name; lane 4r + t holds elements (r, 2t) and (r, 2t + 1), transposed (2t, r) and (2t + 1,
// r).
void load_all(const Block::Arguments& arguments, bool transposed, const Site& site) {
  Block& block = Block::current();
  count_rows(arguments, site);
  for (std::size_t matrix = 0; matrix < 4; ++matrix) {
    std::uint16_t element[8][8];
    for (std::size_t r = 0; r < 8; ++r) {
      const SharedAddress row = static_cast<const Rows*>(arguments[8 * matrix + r])->row;
      std::memcpy(element[r], block.shared().read(row, 16, {block.thread(), true}, site), 16);
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const std::size_t r = lane / 4, c = 2 * (lane % 4);
      const std::uint32_t low = transposed ? element[c][r] : element[r][c], high = transposed ? element[c + 1][r] : element[r][c + 1];
      static_cast<const Rows*>(arguments[lane])->registers[matrix] = low | high << 16;
    }
  }
}

void store_all(const Block::Arguments& arguments, const Site& site) {
  Block& block = Block::current();
  count_rows(arguments, site);
  for (std::size_t matrix = 0; matrix < 4; ++matrix) {
    for (std::size_t r = 0; r < 8; ++r) {
      std::uint32_t words[4];
      for (std::size_t t = 0; t < 4; ++t) words[t] = static_cast<const Rows*>(arguments[4 * r + t])->registers[matrix];
      const SharedAddress row = static_cast<const Rows*>(arguments[8 * matrix + r])->row;
      std::memcpy(block.shared().write(row, 16, {block.thread(), true}, site), words, 16);
    }
  }
}

// Lane 4g + t. A: a0 (g, 2t..2t+1), a1 (g + 8, ..), a2 (g, 2t + 8..), a3 (g + 8, 2t + 8..). B: b0 (2t..2t+1, g), b1 (2t + 8.., g).
// C: c0, c1 (g, 2t..2t+1), c2, c3 (g + 8, ..).
void multiply_all(const Block::Arguments& arguments) {
  float a[16][16], b[16][8];
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const auto& part = *static_cast<const Product*>(arguments[lane]);
    const std::size_t g = lane / 4, t = 2 * (lane % 4);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t row = g + 8 * (i % 2), column = t + 8 * (i / 2);
      a[row][column] = low_bf16(part.a[i]);
      a[row][column + 1] = high_bf16(part.a[i]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = low_bf16(part.b[i]);
      b[t + 8 * i + 1][g] = high_bf16(part.b[i]);
    }
  }
  float sum[16][8] = {};
  for (std::size_t m = 0; m < 16; ++m) {
    for (std::size_t k = 0; k < 16; ++k) {
      for (std::size_t n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    float* c = static_cast<const Product*>(arguments[lane])->c;
    const std::size_t g = lane / 4, t = 2 * (lane % 4);
    for (std::size_t i = 0; i < 4; ++i) c[i] += sum[g + 8 * (i / 2)][t + i % 2];
  }
}

}  // namespace

void load_matrices(SharedAddress row, Registers<std::uint32_t, 4>& to, bool transposed, const Site& site) {
  Rows mine{row, &to[0]};
  Block::current().collective(transposed ? Collective::kLdmatrixTrans : Collective::kLdmatrix, kAllLanes, site, &mine,
                              [&](const Block::Arguments& arguments) { load_all(arguments, transposed, site); });
}

void store_matrices(SharedAddress row, const Registers<std::uint32_t, 4>& from, const Site& site) {
  Rows mine{row, const_cast<std::uint32_t*>(&from[0])};  // read only, see store_all
  Block::current().collective(Collective::kStmatrix, kAllLanes, site, &mine,
                              [&](const Block::Arguments& arguments) { store_all(arguments, site); });
}

void multiply(Registers<float, 4>& c, const Registers<std::uint32_t, 4>& a, std::uint32_t b0, std::uint32_t b1, const Site& site) {
  Product mine{&c[0], &a[0], {b0, b1}};
  Block::current().collective(Collective::kMma, kAllLanes, site, &mine, [](const Block::Arguments& arguments) { multiply_all(arguments); });
}

}  // namespace meristem::kernels::device::host
