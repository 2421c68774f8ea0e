"""What a `Loader` runs on: the compiled core, the reference, or NVIDIA DALI."""
