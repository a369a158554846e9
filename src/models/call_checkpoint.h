// Activation checkpointing of one block call (Chen et al., 1604.06174): forward keeps the call's input alone, backward runs the call again.
#pragma once

#include "nn/block.h"

namespace meristem {

// block->forward(h_ND, call) with the same result and, to the bit, the same gradients. Parameters are inputs of the autograd node, so the
// gradients of a block that is called many times meet in the same order and place as without checkpointing, and hooks see each parameter
// once. Random numbers that the call draws from the default generators are drawn again alike. What `call` points to need not live on.
at::Tensor checkpointed_call(const nn::Block& block, const at::Tensor& h_ND, const nn::CallContext& call);

}  // namespace meristem
