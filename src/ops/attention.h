// Causal grouped-query attention, softmax(q k^T / sqrt(K)) v, on the packed projection.
// Shapes: N tokens, H query heads, G key/value heads (G divides H), K head dim; qkv_NC holds H*K query, G*K key, G*K value columns.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/documents.h"
#include "ops/head_shape.h"
#include "ops/paths.h"

namespace meristem::ops {

// Returns [N, H*K] of the same type; causal within each document. The fused path reads documents.offsets. Differentiable in qkv_NC.
at::Tensor causal_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, Path path);

// Decoding: t new queries q [t, H*K] see the S >= t keys and values [S, G*K] of one sequence, query i up to key S - t + i. No gradient.
// Our own kernel is for whole sequences: kFused decodes by the library.
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape, Path path);

}  // namespace meristem::ops
