// Query heads and the key/value heads that they share.
#pragma once

#include <cstdint>

namespace meristem::ops {

struct HeadShape {
  std::int64_t heads, kv_heads, head_dim;
  std::int64_t query_columns() const { return heads * head_dim; }
  std::int64_t kv_columns() const { return kv_heads * head_dim; }
  std::int64_t columns() const { return query_columns() + 2 * kv_columns(); }
};

}  // namespace meristem::ops
