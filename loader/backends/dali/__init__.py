"""The backend that makes views by an NVIDIA DALI graph."""
