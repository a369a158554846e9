#include <torch/torch.h>

#include "train/run.h"

namespace meristem {

at::Device pick_device() { return torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU); }

}  // namespace meristem
