"""Random draws, the order of an epoch, and what each worker reads of it: all pure functions."""
