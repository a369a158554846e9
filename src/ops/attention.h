// Causal grouped-query attention, softmax(q k^T / sqrt(K)) v, on the packed projection; with a window (Beltagy et al., 2020) and with
// capped scores (Gemma 2, 2408.00118; kReference alone) where the shape has them. Shapes: N tokens, H query heads, G key/value heads (G
// divides H), K head dim; qkv_NC holds H*K query, G*K key, G*K value columns.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// Where attention may look: a flattened batch of N tokens is cut into documents, which are whole sequences where there is no document mask;
// a token sees its own document up to itself.
struct Documents {
  std::vector<std::int64_t> lengths;  // sum = N, each >= 1
  // int32 [documents + 1 or more], on the batch's device: the documents' starts, then N, as often as wanted (empty documents). Our own
  // kernels read them. Undefined until the batch brings them along or on() makes them.
  at::Tensor offsets = {};
  // Of each document the earlier one whose tokens stand before its own, and before those what stands before that one, so that several share
  // a beginning which is computed once; -1: none. Empty: no document has one. Forward alone.
  std::vector<std::int64_t> beginnings = {};
  // No document is longer; 0: the lengths say so. A captured graph knows no lengths.
  std::int64_t longest = 0;
  // Each document is a whole row of a run's batches, so their shape comes again and again. A library may then plan ahead for it.
  bool whole_rows = false;
  // Forward alone, of each document: whether nobody reads its rows of the result, which may then hold anything. Empty: all are read.
  std::vector<char> unread = {};

  // With offsets on `device`: those of the batch, else made from the lengths, a copy from the host. A model asks once a batch.
  Documents on(at::Device device) const;

  // The same, where of the result these rows alone are read: int64, ascending.
  Documents read_at(const at::Tensor& rows) const;

  static Documents uniform(std::int64_t count, std::int64_t length) {
    return {std::vector<std::int64_t>(static_cast<std::size_t>(count), length)};
  }
  bool is_uniform() const {
    for (const std::int64_t length : lengths) {
      if (length != lengths.front()) return false;
    }
    return !lengths.empty();
  }
  // What stands before document d, in the order of the text.
  std::vector<std::size_t> before(std::size_t d) const {
    std::vector<std::size_t> documents;
    for (std::int64_t b = beginnings.empty() ? -1 : beginnings[d]; b >= 0; b = beginnings[static_cast<std::size_t>(b)])
      documents.insert(documents.begin(), static_cast<std::size_t>(b));
    return documents;
  }
};

// Returns [N, H*K] of the same type; causal within each document. Differentiable in qkv_NC. kFused: on a CPU fp32 and bf16 and even
// head dims, on a GPU bf16 and head dims 64 and 128; reads documents.offsets and the projection in place by its strides; saves qkv, the
// result and its log-sum-exp; gradients are deterministic, on a GPU where LibTorch is asked for that (run.deterministic). kLibrary on a
// GPU: one call of LibTorch's flash attention for all documents, with windows and shared key heads; cuDNN, which plans anew for each shape
// that it sees, only where whole_rows says that the shape stays.
at::Tensor causal_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, Path path);

// Bytes that our CPU kernels keep of each thread from step to step, for documents of so many tokens. compute: float32 or bfloat16.
std::int64_t attention_workspace(const HeadShape& shape, std::int64_t tokens, at::ScalarType compute);

// What is kept of one sequence: keys and values of its last S tokens, [S, G*K] each, rows without gaps.
struct KeptRows {
  at::Tensor keys, values;
};

// Decoding: the t new tokens of each document, whose queries are its rows of q_NC [N, H*K], are the last of the S >= t that its sequence
// keeps; query i sees them up to key S - t + i, and with a window no further back than that. Returns [N, H*K]. No gradient. kFused on a
// CPU: one token of each document is our own kernel for it, whose bits do not depend on the other documents; on a GPU it is the library.
at::Tensor cached_attention(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const HeadShape& shape, const Documents& documents,
                            Path path);

}  // namespace meristem::ops
