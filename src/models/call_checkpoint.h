// Activation checkpointing of one block call (Chen et al., 1604.06174): forward keeps the call's input alone, backward runs the call again.
#pragma once

#include "nn/block.h"

namespace meristem {

// block->forward(h_ND, call) with the same result and gradients. Parameters, and what the call reads of the memory of its depth, are inputs
// of the autograd node; what it adds to that memory are further outputs, kept. So the gradients of a block that is called many times meet
// in the same order and place as without checkpointing, and hooks see each parameter once. Random numbers that the call draws from the
// default generators are drawn again alike; experts are counted the first time only. What `call` points to need not live on.
at::Tensor checkpointed_call(const nn::Block& block, const at::Tensor& h_ND, nn::CallContext& call);

}  // namespace meristem
