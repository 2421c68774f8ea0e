"""How a step is run on a device. `tf2` is for TensorFlow 2."""
