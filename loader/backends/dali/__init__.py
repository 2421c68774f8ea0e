"""The backend that makes views with an NVIDIA DALI graph."""
