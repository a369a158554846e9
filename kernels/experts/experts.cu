// Expert dispatch. The choices are sorted by expert in three kernels: how often each expert stands in each tile of the choices; those
// counts summed over the tiles before; the row of each choice. Then the rows of the sorted choices: gathered, combined, and the gradients
// of both.
#include "meristem_kernels/experts.h"

#include <cstdint>
#include <string>
#include <utility>

#include "rows/chunk.h"
#include "rows/dispatch.h"

namespace meristem::kernels {
namespace detail {

inline void check(const ExpertShape& shape) {
  require(shape.tokens >= 0, "experts", "a negative number of tokens");
  require(shape.experts >= 1 && shape.experts <= kExpertsMost, "experts",
          std::to_string(shape.experts) + " experts; allowed: 1 to " + std::to_string(kExpertsMost));
  require(shape.choices >= 1 && shape.choices <= shape.experts, "experts",
          std::to_string(shape.choices) + " choices a token of " + std::to_string(shape.experts) + " experts");
  require(static_cast<std::int64_t>(shape.tokens) * shape.choices <= std::int64_t{1} << 30, "experts", "more than 2^30 choices");
  require(shape.width > 0 && shape.width % 8 == 0, "experts", "width " + std::to_string(shape.width) + "; allowed: multiples of 8");
}

inline constexpr int kExpertWarps = 4, kExpertThreads = 32 * kExpertWarps;

// A warp counts and places the choices of one tile, in order.
inline constexpr int kExpertTile = 512;

struct ExpertSortParameters {
  int choices, experts, tiles;  // M, E, ceil(M / kExpertTile)
  const std::int64_t* chosen;
  std::int32_t* tile_counts;  // [tiles, E]: how often each expert stands in a tile; then how often in the tiles before it
  std::int32_t* counts;       // [E]
  std::int32_t *place, *ends;
};

// How often each expert stands in each tile of the choices: a histogram a warp, in shared memory.
MERISTEM_KERNEL(kExpertThreads, 1)
expert_count_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const int tile = device::block_index() * kExpertWarps + warp;
  if (tile >= p.tiles) return;
  const device::SharedAddress counts = device::shared_base() + static_cast<device::SharedAddress>(4 * warp * p.experts);
  for (int e = lane; e < p.experts; e += device::kWarp) device::sts(counts + 4 * e, 0);
  device::warp_sync();
  const device::gptr<const std::int64_t> chosen(p.chosen);
  for (int i = tile * kExpertTile + lane; i < (tile + 1) * kExpertTile; i += device::kWarp) {
    if (i < p.choices) device::atomic_add_shared(counts + 4 * static_cast<int>(device::ldg<std::int64_t>(chosen + i)), 1);
  }
  device::warp_sync();
  const device::gptr<std::int32_t> to = device::gptr<std::int32_t>(p.tile_counts) + static_cast<std::int64_t>(tile) * p.experts;
  for (int e = lane; e < p.experts; e += device::kWarp) device::stg(to + e, device::lds<int>(counts + 4 * e));
}

void launch_expert_count(const ExpertSortParameters& p, Stream stream) {
  device::launch("expert_count", expert_count_kernel, (p.tiles + kExpertWarps - 1) / kExpertWarps, kExpertThreads,
                 4 * kExpertWarps * p.experts, stream, p);
}

// Turns each tile's counts into those of the tiles before it, and sums them up. A block has eight experts, whose counts are a sector of
// memory, so that few experts fill several multiprocessors; a lane has one of them and a share of the tiles.
inline constexpr int kCountsAtOnce = 8;  // loads in flight where stores follow: nvcc moves none above them
inline constexpr int kScanThreads = 512, kScanShared = 4 * kScanThreads, kScanExperts = 8, kScanShares = kScanThreads / kScanExperts;

// One expert's counts of the next tiles, of which `left` are left; zero beyond them.
MERISTEM_DEVICE void load_counts(device::Registers<int, kCountsAtOnce>& to, device::gptr<std::int32_t> at, int experts, int left) {
  MERISTEM_UNROLL
  for (int u = 0; u < kCountsAtOnce; ++u) {
    to[u] = u < left ? device::ldg<std::int32_t>(at) : 0;
    at = at + experts;
  }
}

MERISTEM_KERNEL(kScanThreads, 3)
expert_scan_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int column = device::thread_index() % kScanExperts, share = device::thread_index() / kScanExperts;
  const int expert = device::block_index() * kScanExperts + column;
  const int tiles = (p.tiles + kScanShares - 1) / kScanShares;
  const int first = share * tiles, last = first + tiles < p.tiles ? first + tiles : p.tiles;
  const device::gptr<std::int32_t> counts = device::gptr<std::int32_t>(p.tile_counts) + expert;
  int sum = 0;
  if (expert < p.experts) {
    for (int tile = first; tile < last; ++tile) sum += device::ldg<std::int32_t>(counts + static_cast<std::int64_t>(tile) * p.experts);
  }
  const device::SharedAddress sums = device::shared_base();
  device::sts(sums + 4 * (share * kScanExperts + column), sum);
  device::barrier();
  if (expert >= p.experts) return;
  int before = 0, all = 0;
  for (int s = 0; s < kScanShares; ++s) {
    const int of_share = device::lds<int>(sums + 4 * (s * kScanExperts + column));
    before += s < share ? of_share : 0;
    all += of_share;
  }
  device::gptr<std::int32_t> at = counts + static_cast<std::int64_t>(first) * p.experts;
  for (int left = last - first; left > 0; left -= kCountsAtOnce) {
    device::Registers<int, kCountsAtOnce> here;
    load_counts(here, at, p.experts, left);
    MERISTEM_UNROLL
    for (int u = 0; u < kCountsAtOnce; ++u) {
      if (u < left) device::stg(at, before);
      before += here[u];
      at = at + p.experts;
    }
  }
  if (share == 0) device::stg(device::gptr<std::int32_t>(p.counts) + expert, all);
}

void launch_expert_scan(const ExpertSortParameters& p, Stream stream) {
  device::launch("expert_scan", expert_scan_kernel, (p.experts + kScanExperts - 1) / kScanExperts, kScanThreads, kScanShared, stream, p);
}

// Where each choice goes: behind the earlier experts' rows, behind its own expert's of earlier tiles, and behind those of its own tile that
// stand before it.
// The sum of the lanes' values up to and with this lane's.
MERISTEM_DEVICE int sum_up_to_lane(int value) {
  const int lane = device::lane_index();
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const int before = device::shuffle(value, lane - distance);
    value += lane >= distance ? before : 0;
  }
  return value;
}

// The first row of each expert, into shared memory: `starts` [E], and `sums`, a number a warp. The first block writes `ends`.
MERISTEM_DEVICE void scan_experts(const ExpertSortParameters& p, device::SharedAddress starts, device::SharedAddress sums) {
  const device::gptr<const std::int32_t> counts(p.counts);
  const int share = (p.experts + kExpertThreads - 1) / kExpertThreads, first = device::thread_index() * share;
  const int last = first + share < p.experts ? first + share : p.experts;
  int sum = 0;
  for (int e = first; e < last; ++e) sum += device::ldg<std::int32_t>(counts + e);
  const int up_to = sum_up_to_lane(sum);
  if (device::lane_index() == device::kWarp - 1) device::sts(sums + 4 * device::warp_index(), up_to);
  device::barrier();
  int start = up_to - sum;
  for (int w = 0; w < device::warp_index(); ++w) start += device::lds<int>(sums + 4 * w);
  for (int e = first; e < last; ++e) {
    device::sts(starts + 4 * e, start);
    start += device::ldg<std::int32_t>(counts + e);
    if (device::block_index() == 0) device::stg(device::gptr<std::int32_t>(p.ends) + e, start);
  }
  device::barrier();
}

// The lanes that hold the same number below `most` as this one, among those where `valid` holds.
MERISTEM_DEVICE std::uint32_t lanes_alike(int number, int most, bool valid) {
  std::uint32_t alike = device::ballot(valid);
  for (int bit = 0; (most - 1) >> bit > 0; ++bit) {
    const bool set = (number >> bit & 1) != 0;
    const std::uint32_t others = device::ballot(set);
    alike &= set ? others : ~others;
  }
  return alike;
}

MERISTEM_KERNEL(kExpertThreads, 1)
expert_place_kernel(const MERISTEM_GRID_CONSTANT ExpertSortParameters p) {
  const int lane = device::lane_index(), warp = device::warp_index();
  const int tile = device::block_index() * kExpertWarps + warp;
  const device::SharedAddress starts = device::shared_base(), sums = starts + static_cast<device::SharedAddress>(4 * p.experts);
  scan_experts(p, starts, sums);
  if (tile >= p.tiles) return;
  // The row that the next choice of each expert goes to.
  const device::SharedAddress next = sums + static_cast<device::SharedAddress>(4 * (kExpertWarps + warp * p.experts));
  const device::gptr<const std::int32_t> before =
      device::gptr<const std::int32_t>(p.tile_counts) + static_cast<std::int64_t>(tile) * p.experts;
  for (int e = lane; e < p.experts; e += device::kWarp) {
    device::sts(next + 4 * e, device::lds<int>(starts + 4 * e) + device::ldg<std::int32_t>(before + e));
  }
  device::warp_sync();
  for (int first = tile * kExpertTile; first < (tile + 1) * kExpertTile; first += device::kWarp) {
    const int i = first + lane;
    const bool valid = i < p.choices;
    const int expert = valid ? static_cast<int>(device::ldg<std::int64_t>(device::gptr<const std::int64_t>(p.chosen) + i)) : 0;
    const std::uint32_t alike = lanes_alike(expert, p.experts, valid);
    const int rank = device::count_bits(alike & ((1u << lane) - 1));
    const int row = device::lds<int>(next + 4 * expert);
    device::warp_sync();
    if (valid) {
      device::stg(device::gptr<std::int32_t>(p.place) + i, row + rank);
      if (rank == 0) device::sts(next + 4 * expert, row + device::count_bits(alike));
    }
    device::warp_sync();
  }
}

void launch_expert_place(const ExpertSortParameters& p, Stream stream) {
  const int blocks = p.tiles == 0 ? 1 : (p.tiles + kExpertWarps - 1) / kExpertWarps;  // without a choice there are still ends to write
  device::launch("expert_place", expert_place_kernel, blocks, kExpertThreads, 4 * (p.experts + kExpertWarps + kExpertWarps * p.experts),
                 stream, p);
}

int tiles_of(const ExpertShape& shape) { return (shape.tokens * shape.choices + kExpertTile - 1) / kExpertTile; }

struct ExpertRowsParameters {
  ExpertShape shape;
  const std::int32_t* place;
  const float* weights;
  const std::uint16_t *x, *rows;
  std::uint16_t* to;  // what the kernel writes: rows, y or d_rows
  float* d_weights;
};

// The rows of sorted choices, by the tokens that they are of: a warp has one token, and its lanes the chunks of a row. Every row has one
// token and one choice, so every element one writer.
inline constexpr int kRowsWarps = 8, kRowsThreads = 32 * kRowsWarps;
inline constexpr int kChoicesAtOnce = 4;

struct ExpertToken {
  int token;
  bool valid;
};
MERISTEM_DEVICE ExpertToken expert_token(const ExpertShape& shape) {
  const int token = device::block_index() * kRowsWarps + device::warp_index();
  return {token, token < shape.tokens};
}

// Chunk `chunk` of a row of `width` elements.
MERISTEM_DEVICE std::int64_t chunk_at(std::int64_t row, int chunk, int width) { return row * width + 8 * chunk; }

// The choices first to first + 3 of a token, as far as it has them: rows of -1 are not there.
struct ChoiceBatch {
  Registers<int, kChoicesAtOnce> row;
  Registers<float, kChoicesAtOnce> weight;
};
MERISTEM_DEVICE void load_choices(ChoiceBatch& to, const ExpertRowsParameters& p, int token, int first) {
  const std::int64_t choices = static_cast<std::int64_t>(token) * p.shape.choices;
  MERISTEM_UNROLL
  for (int u = 0; u < kChoicesAtOnce; ++u) {
    const bool there = first + u < p.shape.choices;
    to.row[u] = there ? device::ldg<std::int32_t>(device::gptr<const std::int32_t>(p.place) + (choices + first + u)) : -1;
    to.weight[u] = there && p.weights != nullptr ? device::ldg<float>(device::gptr<const float>(p.weights) + (choices + first + u)) : 1;
  }
}

// A token's row to each of the places of its choices: read once, written k times.
MERISTEM_KERNEL(kRowsThreads, 4)
expert_gather_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  const device::gptr<const std::uint16_t> x(p.x);
  const device::gptr<const std::int32_t> place =
      device::gptr<const std::int32_t>(p.place) + static_cast<std::int64_t>(at.token) * p.shape.choices;
  for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
    const Vec4 values = device::ldg<Vec4>(x + chunk_at(at.token, chunk, p.shape.width));
    for (int j = 0; j < p.shape.choices; ++j) {
      device::stg(device::gptr<std::uint16_t>(p.to) + chunk_at(device::ldg<std::int32_t>(place + j), chunk, p.shape.width), values);
    }
  }
}

void launch_expert_gather(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_gather", expert_gather_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0, stream, p);
}

// A token's k rows, weighted, summed in the order of its choices.
MERISTEM_KERNEL(kRowsThreads, 4)
expert_combine_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
    ChunkSum sum;
    set_zero(sum);
    for (int first = 0; first < p.shape.choices; first += kChoicesAtOnce) {
      ChoiceBatch batch;
      load_choices(batch, p, at.token, first);
      Registers<Vec4, kChoicesAtOnce> rows;
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] >= 0) {
          rows[u] = device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.rows) + chunk_at(batch.row[u], chunk, p.shape.width));
        }
      }
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] >= 0) add_scaled(sum, batch.weight[u], rows[u]);
      }
    }
    device::stg(device::gptr<std::uint16_t>(p.to) + chunk_at(at.token, chunk, p.shape.width), scaled_chunk(sum, 1));
  }
}

void launch_expert_combine(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_combine", expert_combine_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0, stream, p);
}

// The gradients of a weighted sum: each row's, and each weight's, the sum of 32 lanes.
MERISTEM_KERNEL(kRowsThreads, 4)
expert_combine_backward_kernel(const MERISTEM_GRID_CONSTANT ExpertRowsParameters p) {
  const ExpertToken at = expert_token(p.shape);
  if (!at.valid) return;
  for (int first = 0; first < p.shape.choices; first += kChoicesAtOnce) {
    ChoiceBatch batch;
    load_choices(batch, p, at.token, first);
    Registers<float, kChoicesAtOnce> dots;
    MERISTEM_UNROLL
    for (int u = 0; u < kChoicesAtOnce; ++u) dots[u] = 0;
    for (int chunk = device::lane_index(); chunk < p.shape.width / 8; chunk += device::kWarp) {
      const Vec4 dy = device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.x) + chunk_at(at.token, chunk, p.shape.width));
      MERISTEM_UNROLL
      for (int u = 0; u < kChoicesAtOnce; ++u) {
        if (batch.row[u] < 0) continue;
        const std::int64_t place = chunk_at(batch.row[u], chunk, p.shape.width);
        dots[u] += dot_chunk(dy, device::ldg<Vec4>(device::gptr<const std::uint16_t>(p.rows) + place));
        ChunkSum d_row;
        set_zero(d_row);
        add_scaled(d_row, batch.weight[u], dy);
        device::stg(device::gptr<std::uint16_t>(p.to) + place, scaled_chunk(d_row, 1));
      }
    }
    sum_over_lanes(dots, 1, device::kWarp);
    MERISTEM_UNROLL
    for (int u = 0; u < kChoicesAtOnce; ++u) {
      if (device::lane_index() == u && batch.row[u] >= 0) {
        device::stg(device::gptr<float>(p.d_weights) + (static_cast<std::int64_t>(at.token) * p.shape.choices + first + u), dots[u]);
      }
    }
  }
}

void launch_expert_combine_backward(const ExpertRowsParameters& p, Stream stream) {
  device::launch("expert_combine_backward", expert_combine_backward_kernel, (p.shape.tokens + kRowsWarps - 1) / kRowsWarps, kRowsThreads, 0,
                 stream, p);
}

}  // namespace detail

std::int64_t expert_sort_scratch(const ExpertShape& shape) {
  detail::check(shape);
  return (static_cast<std::int64_t>(detail::tiles_of(shape)) + 1) * shape.experts;
}

void expert_sort(const ExpertShape& shape, const std::int64_t* chosen, std::int32_t* scratch, std::int32_t* place, std::int32_t* ends,
                 Stream stream) {
  detail::check(shape);
  const int tiles = detail::tiles_of(shape);
  std::int32_t* const counts = scratch + static_cast<std::int64_t>(tiles) * shape.experts;
  const detail::ExpertSortParameters p{shape.tokens * shape.choices, shape.experts, tiles, chosen, scratch, counts, place, ends};
  detail::launch_expert_count(p, stream);
  detail::launch_expert_scan(p, stream);
  detail::launch_expert_place(p, stream);
}

void expert_gather(const ExpertShape& shape, const std::uint16_t* x, const std::int32_t* place, std::uint16_t* rows, Stream stream) {
  detail::check(shape);
  detail::require_aligned(x, "experts", "x");
  detail::require_aligned(rows, "experts", "rows");
  detail::launch_expert_gather({shape, place, nullptr, x, nullptr, rows, nullptr}, stream);
}

void expert_combine(const ExpertShape& shape, const std::uint16_t* rows, const std::int32_t* place, const float* weights, std::uint16_t* y,
                    Stream stream) {
  detail::check(shape);
  detail::require_aligned(rows, "experts", "rows");
  detail::require_aligned(y, "experts", "y");
  detail::launch_expert_combine({shape, place, weights, nullptr, rows, y, nullptr}, stream);
}

void expert_combine_backward(const ExpertShape& shape, const std::uint16_t* dy, const std::uint16_t* rows, const std::int32_t* place,
                             const float* weights, std::uint16_t* d_rows, float* d_weights, Stream stream) {
  detail::check(shape);
  for (const auto& [matrix, name] : {std::pair{dy, "dy"}, {rows, "rows"}, {static_cast<const std::uint16_t*>(d_rows), "d_rows"}}) {
    detail::require_aligned(matrix, "experts", name);
  }
  detail::launch_expert_combine_backward({shape, place, weights, dy, rows, d_rows, d_weights}, stream);
}

}  // namespace meristem::kernels
