"""How a reader reaches the shards of a data set, whether they are files here or at URLs."""

import abc
import contextlib
from typing import Callable, ContextManager, Optional, Sequence

Opener = Callable[[int], int]


class Shards(abc.ABC):
    """The shards of a data set, opened for one reader, which closes them."""

    @abc.abstractmethod
    def use(self, shard: int) -> ContextManager[str]:
        """The local path of a shard, which stays there while it is in use. Raises: FetchError."""

    @abc.abstractmethod
    def opener(self, release: Callable[[int], None]) -> Optional[Opener]:
        """How the compiled core opens shards.

        Args:
            release: called with the number of a shard that may be removed from now on, so that the
                core closes its descriptor.

        Returns: a function from a shard's number to a descriptor, which the core closes; None if
            the core opens the shards by their paths.
        """

    @abc.abstractmethod
    def expect(self, now: Sequence[int], following: Sequence[int] = ()) -> None:
        """Says what is read from now on.

        Args:
            now: shards that are read at the same time.
            following: shards that come next, in this order.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends all waits for a shard."""


class LocalShards(Shards):
    """Shards that are files on this machine: there is nothing to wait for and nothing to release.

    Args:
        paths: paths of the shards.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths

    def use(self, shard: int) -> ContextManager[str]:
        """The path of a shard."""
        return contextlib.nullcontext(self._paths[shard])

    def opener(self, release: Callable[[int], None]) -> Optional[Opener]:
        """None: the core opens files by their paths."""
        return None

    def expect(self, now: Sequence[int], following: Sequence[int] = ()) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
