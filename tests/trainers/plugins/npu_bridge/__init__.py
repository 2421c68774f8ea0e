"""A stand-in for Huawei's plugin for TensorFlow 1.15; see `npu_init`."""
