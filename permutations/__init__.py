"""Sets of patch permutations for the jigsaw task.

>>> from pretexture import permutations
>>> permutations.hamming(permutations.maximal(100)).smallest
7
"""

from .sets import Hamming, greedy, hamming, load, maximal, published, save

__all__ = ["Hamming", "greedy", "hamming", "load", "maximal", "published", "save"]
