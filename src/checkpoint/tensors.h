// Between named tensors and the byte views that checkpoint files are made of. A target of its own, meristem::checkpoint_tensors: the rest
// of the room knows no LibTorch.
#pragma once

#include <vector>

#include "checkpoint/safetensors.h"
#include "core/named_tensors.h"

namespace meristem {

// Views of contiguous host tensors; the tensors must outlive them.
std::vector<TensorView> views_of(const NamedTensors& tensors);

// Names, types and shapes alone, of tensors on any device: a CheckpointLayout's.
std::vector<TensorView> layout_of(const NamedTensors& tensors);

// Copies on the host, so that training may go on while they are written. Host tensors are copied too.
NamedTensors host_copy(const NamedTensors& tensors);

// Tensors over a mapped file's bytes, copied where they are not aligned. The file must outlive them.
NamedTensors tensors_of(const SafetensorsFile& file);

}  // namespace meristem
