#include "ops/device.h"

#include <torch/torch.h>

#include "meristem_kernels/device.h"

namespace meristem {

at::Device pick_device() { return torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU); }

std::string device_name(at::Device device) { return device.is_cuda() ? kernels::device_name() : "cpu"; }

}  // namespace meristem
