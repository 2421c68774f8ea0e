"""What a run keeps in its folder: checkpoints, metrics, events, its configuration."""
