"""The reference backend, written to be read."""
