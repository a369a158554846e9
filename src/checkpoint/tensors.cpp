#include "checkpoint/tensors.h"

#include <cstring>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"

namespace meristem {
namespace {

struct Pair {
  Dtype file;
  at::ScalarType memory;
};
constexpr Pair kTypes[] = {{Dtype::kF64, at::kDouble}, {Dtype::kF32, at::kFloat}, {Dtype::kF16, at::kHalf},  {Dtype::kBF16, at::kBFloat16},
                           {Dtype::kI64, at::kLong},   {Dtype::kI32, at::kInt},   {Dtype::kI16, at::kShort}, {Dtype::kI8, at::kChar},
                           {Dtype::kU8, at::kByte},    {Dtype::kBool, at::kBool}};

Dtype file_type(at::ScalarType type) {
  for (const Pair& pair : kTypes) {
    if (pair.memory == type) return pair.file;
  }
  TORCH_CHECK(false, "no file type for ", type);
}

at::ScalarType memory_type(Dtype type) {
  for (const Pair& pair : kTypes) {
    if (pair.file == type) return pair.memory;
  }
  TORCH_CHECK(false, "no tensor type for ", dtype_name(type));
}

}  // namespace

std::vector<TensorView> views_of(const NamedTensors& tensors) {
  std::vector<TensorView> views = layout_of(tensors);
  for (TensorView& view : views) {
    const at::Tensor& tensor = tensors.at(view.name);
    TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), "a tensor to be written must be contiguous on the host: ", view.name);
    view.data = tensor.data_ptr();
  }
  return views;
}

std::vector<TensorView> layout_of(const NamedTensors& tensors) {
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : tensors) views.push_back({name, file_type(tensor.scalar_type()), tensor.sizes().vec(), nullptr});
  return views;
}

void require_finite(const NamedTensors& weights, const std::string& place) {
  for (const auto& [name, tensor] : weights) {
    if (!tensor.is_floating_point() || tensor.numel() == 0) continue;
    const at::Tensor broken = tensor.detach().reshape({-1}).isfinite().logical_not();
    const auto count = broken.sum().item<std::int64_t>();
    if (count == 0) continue;
    throw NonFiniteError(fmt::format("{}: {} holds {} value{} not finite, the first at {}", place, name, count,
                                     count == 1 ? " that is" : "s that are", broken.to(at::kByte).argmax().item<std::int64_t>()));
  }
}

at::Tensor host_copy(const at::Tensor& tensor) {
  at::Tensor copy = torch::empty(tensor.sizes(), tensor.options().device(at::kCPU).requires_grad(false));
  copy.copy_(tensor.detach());
  return copy;
}

namespace {

void add_tensors(const SafetensorsFile& file, NamedTensors& out) {
  for (const TensorView& view : file.tensors()) {
    // from_blob needs a writable pointer; the mapping is private and nothing here writes.
    void* data = const_cast<void*>(view.data);
    const auto options = torch::dtype(memory_type(view.dtype));
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(data) % dtype_bytes(view.dtype) == 0;
    at::Tensor tensor;
    if (is_aligned && data != nullptr) {
      tensor = torch::from_blob(data, view.shape, options);
    } else {
      tensor = torch::empty(view.shape, options);
      if (view.bytes() > 0) std::memcpy(tensor.data_ptr(), data, view.bytes());
    }
    out.add(view.name, tensor);
  }
}

}  // namespace

NamedTensors tensors_of(const SafetensorsFile& file) {
  NamedTensors out;
  add_tensors(file, out);
  return out;
}

NamedTensors tensors_of(const std::vector<SafetensorsFile>& parts) {
  NamedTensors out;
  for (const SafetensorsFile& part : parts) add_tensors(part, out);
  return out;
}

}  // namespace meristem
