"""TFRecord shards, local and remote: found, indexed, cached, read and written."""
