"""Whether a network would be evaluated on images that it was trained on."""

import os
from typing import Optional

from pretexture.loader import imagenet
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.remote import Storage, is_url


def overlap(
    train_data: str, train_split: str, eval_data: str, eval_split: str, storage: Storage
) -> Optional[str]:
    """A warning where the evaluation split shares shards with the training split, else None.

    Args:
        train_data, eval_data: folders of shards, paths or URLs.
        train_split, eval_split: as `imagenet` names them.
        storage: how URLs are reached.
    """
    options = vars(storage)
    try:
        trained = {_real(path) for path in imagenet(train_data, train_split, **options).paths}
        shared = [
            path
            for path in imagenet(eval_data, eval_split, **options).paths
            if _real(path) in trained
        ]
    except (OSError, ValueError):
        return None  # a split that cannot be opened shares nothing
    if not shared:
        return None
    return (
        f"warning: {len(shared)} shards of the evaluation split {eval_split} are part of the "
        f"training split {train_split}, {redacted(shared[0])} for one: accuracy on them is no "
        f"measure of what generalises"
    )


def _real(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)
