"""Data preparation: folders of images become TFRecord shards."""
