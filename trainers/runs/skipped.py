"""Records that could not be used, and the records that took their place.

With `on_error="skip"` the Loader puts another record in the place of one that it cannot use. The
order of an epoch says which record belongs at each place of a batch, so a comparison with the
record numbers of the batch finds every replacement. Unlike `Loader.stats`, which also counts
batches made ahead, that gives the same count if a run is killed and resumed.
"""

from typing import Any, Iterator

import numpy as np
from pretexture.loader import Loader


def replaced(loader: Any, batch: Any) -> np.ndarray:
    """Which records of the last batch took the place of others.

    Args:
        loader: that just gave the batch; a `Loader`, or one of features, which replaces none.
        batch: the batch.

    Returns: bool [N].
    """
    if not isinstance(loader, Loader) or not loader.stats.skipped:
        return np.zeros(len(batch.index), bool)
    state = loader.state_dict()
    return np.asarray(batch.index) != loader.share.records(state["epoch"], state["batch"] - 1)


def each_once(loader: Any) -> Iterator[Any]:
    """An epoch in which records that took the place of others have the number -1, like padding."""
    for batch in loader:
        those = replaced(loader, batch)
        yield batch._replace(index=np.where(those, -1, batch.index)) if those.any() else batch
