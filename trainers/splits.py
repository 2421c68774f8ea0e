"""Whether a network would be evaluated on images that it was trained on."""

import os
from typing import Optional

from pretexture.loader import imagenet


def overlap(train_data: str, train_split: str, eval_data: str, eval_split: str) -> Optional[str]:
    """A warning where the evaluation split shares shards with the training split, else None.

    Args:
        train_data, eval_data: folders of shards.
        train_split, eval_split: as `imagenet` names them.
    """
    try:
        trained = {os.path.realpath(path) for path in imagenet(train_data, train_split).paths}
        shared = [
            path
            for path in imagenet(eval_data, eval_split).paths
            if os.path.realpath(path) in trained
        ]
    except (OSError, ValueError):
        return None  # a split that cannot be opened shares nothing
    if not shared:
        return None
    return (
        f"warning: {len(shared)} shards of the evaluation split {eval_split} are part of the "
        f"training split {train_split}, {shared[0]} for one: accuracy on them is no measure of "
        f"what generalises"
    )
