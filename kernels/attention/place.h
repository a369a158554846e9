// Where a block works: which rows of which document, and which keys these rows see.
#pragma once

#include "attention/parameters.h"
#include "device/layer.h"

namespace meristem::kernels::detail {

struct Place {
  int document_begin, length;  // the document's first token, its tokens
  int first;                   // the tile's first row in the document; not below `length`: the tile is empty
};

// Document d owns the tiles from offsets[d] / rows + d on. These starts grow by at least ceil(length / rows) from d to d + 1, so tiles of
// two documents never meet, and at most one tile a document stays empty.
MERISTEM_DEVICE Place place_of_tile(const AttentionShape& shape, int tile, int rows) {
  const device::gptr<const std::int32_t> offsets(shape.offsets);
  int low = 0, high = shape.documents - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (device::ldg<std::int32_t>(offsets + middle) / rows + middle <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int begin = device::ldg<std::int32_t>(offsets + low), end = device::ldg<std::int32_t>(offsets + (low + 1));
  return {begin, end - begin, (tile - begin / rows - low) * rows};
}

// The mask: query `row` sees keys first(row) to last(row) of its document.
struct Window {
  int left, right, length;
  MERISTEM_DEVICE int first(int row) const { return row > left ? row - left : 0; }
  MERISTEM_DEVICE int last(int row) const { return row < length - right ? row + right : length - 1; }
};
MERISTEM_DEVICE Window window_of(const AttentionShape& shape, int length) {
  return {shape.window_left < 0 || shape.window_left > length ? length : shape.window_left,
          shape.window_right < 0 || shape.window_right > length ? length : shape.window_right, length};
}

MERISTEM_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
MERISTEM_DEVICE int larger(int a, int b) { return a > b ? a : b; }

}  // namespace meristem::kernels::detail
