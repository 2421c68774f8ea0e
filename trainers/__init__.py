"""Self-supervised pretraining: networks, pretext tasks, recipes and the engines that run them.

One source runs on TensorFlow 1.15, 2.6 and current. `recipes` needs no TensorFlow.
"""

from pretexture.loader import moved as _moved

from .moved import MOVED as _MOVED

_moved.install(__name__, _MOVED)
