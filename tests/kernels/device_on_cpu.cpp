// The device, where the kernels' own source runs on the CPU layer in the place of the stand-in that refuses.
#include "meristem_kernels/device.h"

namespace meristem::kernels {

bool available() { return true; }

std::string device_name() { return "the kernels' CPU layer"; }

int compute_capability() { return 90; }

}  // namespace meristem::kernels
