"""The pipeline language: steps, parsed, checked and lowered to operations."""
