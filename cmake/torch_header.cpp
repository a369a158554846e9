// Compiled once, so that the precompiled LibTorch header has an owner.
