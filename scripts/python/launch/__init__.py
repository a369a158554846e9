"""Several ranks on this machine: `meristem train … --nproc N`. PyTorch's elastic agent, in this process, starts and restarts them."""
