#include "ops/products.h"

#include <algorithm>
#include <span>
#include <utility>

#include <ATen/Functions.h>

#include "ops/launch.h"

namespace meristem::ops {
namespace {

// The calling thread's memory between calls, so that no step faults pages in anew.
void* packed_memory(std::size_t which, std::int64_t bytes) {
  thread_local at::Tensor held[2];
  at::Tensor& memory = held[which];
  if (!memory.defined() || memory.numel() < bytes) {
    memory = at::Tensor();  // what is there is not kept: never both
    memory = at::empty({bytes}, at::kByte);
  }
  return memory.data_ptr();
}
constexpr std::size_t kRight = 0, kLeft = 1;

template <class X>
cpu::Rows<X> rows_at(const at::Tensor& x, std::int64_t row) {
  return {data_of<std::remove_const_t<X>>(x) + row * x.stride(0), x.stride(0)};
}

std::int64_t parts_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

// Those of a group's rows, and where its packed matrices begin.
struct Group {
  std::int64_t index, begin, rows, right_at = 0, left_at = 0;
};

// Groups that have rows, part_of(rows) of them at a time.
template <class PartOf>
std::vector<Group> groups_of(const GroupEnds& ends, const PartOf& part_of) {
  std::vector<Group> groups;
  for (std::size_t g = 0; g < ends.size(); ++g) {
    const std::int64_t first = g == 0 ? 0 : ends[g - 1], part = part_of(ends[g] - first);
    for (std::int64_t begin = first; begin < ends[g]; begin += part) {
      groups.push_back({static_cast<std::int64_t>(g), begin, std::min(part, ends[g] - begin)});
    }
  }
  return groups;
}

void check(const at::Tensor& x, const at::Tensor& y) {
  TORCH_CHECK(x.stride(1) == 1 && y.stride(1) == 1, "products on the CPU: rows have gaps");
}

// body(group, place) for each part of `size` of what each group has `count(group)` of, by whichever thread is free.
template <class Count, class Body>
void for_parts(const std::vector<Group>& groups, std::int64_t size, const Count& count, const Body& body) {
  std::vector<std::pair<const Group*, std::int64_t>> parts;
  for (const Group& group : groups) {
    for (std::int64_t at = 0; at < count(group); at += size) parts.emplace_back(&group, at);
  }
  parallel_pieces(std::ssize(parts), [&](std::int64_t i) {
    const auto& [group, at] = parts[static_cast<std::size_t>(i)];
    body(*group, at, std::min(count(*group), at + size));
  });
}

// All blocks of the groups' products, those of the same columns one after the other. product(group): a MatrixProduct.
template <class X, class Product>
void for_blocks(const cpu::TypedKernels<X>& kernels, const std::vector<Group>& groups, const Product& product) {
  struct Block {
    const Group* group;
    std::int64_t row, column;
  };
  std::vector<Block> blocks;
  for (const Group& group : groups) {
    const auto p = product(group);
    for (std::int64_t column = 0; column < p.columns; column += cpu::kMatrixColumns) {
      for (std::int64_t row = 0; row < p.rows; row += cpu::kMatrixRows) blocks.push_back({&group, row, column});
    }
  }
  parallel_pieces(std::ssize(blocks), [&](std::int64_t i) {
    const Block& block = blocks[static_cast<std::size_t>(i)];
    kernels.multiply_matrices(product(*block.group), block.row, block.column, thread_scratch(kernels.matrix_scratch));
  });
}

std::int64_t rows_of(std::span<const Group> parts) { return parts.back().begin + parts.back().rows - parts.front().begin; }

// Each group's parts, the longest group first.
std::vector<std::span<const Group>> longest_first(const std::vector<Group>& parts) {
  std::vector<std::span<const Group>> groups;
  for (const Group& part : parts) {
    if (groups.empty() || groups.back().front().index != part.index) {
      groups.emplace_back(&part, 1);
    } else {
      groups.back() = {groups.back().data(), groups.back().size() + 1};
    }
  }
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return rows_of(a) > rows_of(b); });
  return groups;
}

// body(groups, bytes of each of both packed matrices) for all groups. sizes(group) -> such bytes; where they begin is noted in the group.
// Where a thread has whole groups to itself it reads from its own cache what it has packed, and waits for nobody; not where one group
// would keep it longer than its share of all rows.
// Else all threads share them: one after the other until what is packed comes to so much for each thread; a group that needs more is alone,
// and so are parts of one.
template <class Sizes, class Body>
void for_batches(const std::vector<Group>& groups, const Sizes& sizes, const Body& body) {
  const auto each = longest_first(groups);
  const std::int64_t threads = at::get_num_threads(), most = kPackedBytes * threads;
  if (a_thread_each(std::ssize(each), threads) && rows_of(each.front()) * threads <= rows_of(groups)) {
    parallel_pieces(std::ssize(each), [&](std::int64_t i) {
      for (const Group& part : each[static_cast<std::size_t>(i)]) {
        const auto [right, left] = sizes(part);
        body({part}, right, left);
      }
    });
    return;
  }
  std::vector<Group> batch;
  std::int64_t right = 0, left = 0;
  for (Group group : groups) {
    const auto [more_right, more_left] = sizes(group);
    if (!batch.empty() && (right + left + more_right + more_left > most || batch.back().index == group.index)) {
      body(std::exchange(batch, {}), std::exchange(right, 0), std::exchange(left, 0));
    }
    group.right_at = std::exchange(right, right + more_right);
    group.left_at = std::exchange(left, left + more_left);
    batch.push_back(group);
  }
  if (!batch.empty()) body(batch, right, left);
}

// y = x W^T, or where `back`, x W.
void multiply_by_weights(const at::Tensor& x, const at::Tensor& weight_GOI, const GroupEnds& ends, const at::Tensor& y, bool back) {
  check(x, y);
  const std::int64_t depth = x.size(1), columns = y.size(1), row = weight_GOI.stride(1);
  dispatch_cpu(x.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto sizes = [&](const Group&) { return std::pair(kernels.packed_bytes(columns, depth), std::int64_t{0}); };
    const auto whole = [](std::int64_t rows) { return rows; };
    for_batches(groups_of(ends, whole), sizes, [&](const std::vector<Group>& groups, std::int64_t bytes, std::int64_t) {
      char* packed = static_cast<char*>(packed_memory(kRight, bytes));
      for_parts(
          groups, cpu::kMatrixColumns, [&](const Group&) { return columns; },
          [&](const Group& group, std::int64_t first, std::int64_t last) {
            const X* weight = data_of<X>(weight_GOI) + group.index * weight_GOI.stride(0);
            kernels.pack_right({weight, row}, !back, depth, columns, first, last, packed + group.right_at);
          });
      for_blocks<X>(kernels, groups, [&](const Group& group) {
        return cpu::MatrixProduct<X>{
            group.rows, columns, depth, rows_at<const X>(x, group.begin), nullptr, packed + group.right_at, rows_at<X>(y, group.begin), {}};
      });
    });
  });
}

}  // namespace

bool a_thread_each(std::int64_t groups, std::int64_t threads) {
  constexpr std::int64_t kOfThread = 4;
  return groups >= kOfThread * threads;
}

bool multiplies(const at::Tensor& x, std::int64_t depth) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || (x.scalar_type() == at::kBFloat16 && depth % 2 == 0));
}

void multiply_rows(const at::Tensor& x_MI, const at::Tensor& weight_GOI, const GroupEnds& ends, const at::Tensor& y_MO) {
  multiply_by_weights(x_MI, weight_GOI, ends, y_MO, /*back=*/false);
}

void multiply_rows_back(const at::Tensor& dy_MO, const at::Tensor& weight_GOI, const GroupEnds& ends, const at::Tensor& dx_MI) {
  multiply_by_weights(dy_MO, weight_GOI, ends, dx_MI, /*back=*/true);
}

std::int64_t outer_rows(std::int64_t rows, std::int64_t out, std::int64_t in) {
  constexpr std::int64_t kBytes = 1 << 20, kStep = 512;
  const std::int64_t most = std::max<std::int64_t>(kStep, kBytes / (4 * (out + in)) / kStep * kStep),
                     parts = std::max<std::int64_t>(1, (rows + most / 2) / most);
  return std::max<std::int64_t>(1, parts_of(rows, parts));
}

void add_outer_products(const at::Tensor& dy_MO, const at::Tensor& x_MI, const GroupEnds& ends, const at::Tensor& d_weight_GOI) {
  check(dy_MO, x_MI);
  const std::int64_t out = dy_MO.size(1), in = x_MI.size(1), row = d_weight_GOI.stride(1);
  const bool adds = d_weight_GOI.scalar_type() == at::kFloat;
  dispatch_cpu(x_MI.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto sizes = [&](const Group& group) {
      return std::pair(kernels.packed_bytes(in, group.rows), kernels.packed_bytes(out, group.rows));
    };
    const auto part_of = [&](std::int64_t rows) { return adds ? outer_rows(rows, out, in) : rows; };
    for_batches(groups_of(ends, part_of), sizes, [&](const std::vector<Group>& groups, std::int64_t right_bytes, std::int64_t left_bytes) {
      char *right = static_cast<char*>(packed_memory(kRight, right_bytes)), *left = static_cast<char*>(packed_memory(kLeft, left_bytes));
      constexpr std::int64_t kPart = 128;
      const std::int64_t in_parts = parts_of(in, kPart) * kPart;  // the first of each group's columns to pack, then its rows
      for_parts(
          groups, kPart, [&](const Group&) { return in_parts + out; },
          [&](const Group& group, std::int64_t first, std::int64_t last) {
            if (first < in_parts) {
              kernels.pack_right(rows_at<const X>(x_MI, group.begin), false, group.rows, in, first, std::min(in, last),
                                 right + group.right_at);
            } else {
              kernels.pack_left(rows_at<const X>(dy_MO, group.begin), group.rows, out, first - in_parts, last - in_parts,
                                left + group.left_at);
            }
          });
      for_blocks<X>(kernels, groups, [&](const Group& group) {
        cpu::MatrixProduct<X> product{out, in, group.rows, {}, left + group.left_at, right + group.right_at, {}, {}};
        const std::int64_t at = group.index * d_weight_GOI.stride(0);
        if (adds) {
          product.sum = {d_weight_GOI.data_ptr<float>() + at, row};
        } else {
          product.out = {data_of<X>(d_weight_GOI) + at, row};
        }
        return product;
      });
    });
  });
}

}  // namespace meristem::ops
