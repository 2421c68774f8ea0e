"""Random draws and the order of an epoch: pure functions of seed, epoch and position."""
