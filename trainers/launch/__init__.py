"""Several processes for one run: how they are started, watched and ended together."""
