"""The reference backend, written to be read: the specification of all backends."""
