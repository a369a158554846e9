// The device that this process computes on.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace meristem {

// The first CUDA device, else the CPU.
at::Device pick_device();

// As its driver names it ("NVIDIA H200"), or "cpu".
std::string device_name(at::Device device);

}  // namespace meristem
