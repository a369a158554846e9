// Between named tensors and the byte views that checkpoint files are made of. A target of its own, meristem::checkpoint_tensors: the rest
// of the room knows no LibTorch.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/named_tensors.h"

namespace meristem {

// Views of contiguous host tensors; the tensors must outlive them.
std::vector<TensorView> views_of(const NamedTensors& tensors);

// Names, types and shapes alone, of tensors on any device: a CheckpointLayout's.
std::vector<TensorView> layout_of(const NamedTensors& tensors);

// NonFiniteError where a weight is not a finite number: "PLACE: TENSOR holds 3 values that are not finite, the first at 7".
void require_finite(const NamedTensors& weights, const std::string& place);

// A copy on the host, so that training may go on while it is written. Host tensors are copied too.
at::Tensor host_copy(const at::Tensor& tensor);

// Tensors over a mapped file's bytes, copied where they are not aligned. The file must outlive them.
NamedTensors tensors_of(const SafetensorsFile& file);
// Of all parts together.
NamedTensors tensors_of(const std::vector<SafetensorsFile>& parts);

}  // namespace meristem
