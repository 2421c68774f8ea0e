"""The lines of Python that make the batches which the page shows views of."""

from typing import Any, Mapping

from .. import presets
from ..language.pipeline import Pipeline
from ..shards.imagenet import is_folder
from ..shards.source import Records


class Code:
    """Writes the Python for a pipeline.

    Args:
        records: the records of `data`.
        data: folder, pattern, path or URL, as `open_sample` takes it.
        split: split of a folder.
        options: further arguments of the source of records.
    """

    def __init__(self, records: Records, data: str, split: str, options: Mapping[str, Any]):
        more = "".join(f", {name}={value!r}" for name, value in options.items())
        if is_folder(data):
            self._source, self._call = "imagenet", f"imagenet({data!r}, {split!r}{more})"
        else:
            self._source = type(records).__name__
            self._call = f"{self._source}({data!r}{more})"
        # A Loader must have records for one batch.
        self._batch_size = max(1, min(64, len(records.shard_index("skip").offsets)))

    def lines(self, pipeline: Pipeline, training: bool, seed: int) -> str:
        """An import, and a line that makes a Loader."""
        names = ["Loader", self._source]
        sentence = repr(str(pipeline))
        for name, preset in presets.ALL.items():
            if preset == pipeline:
                names.append("presets")
                sentence = f"presets.{name}"
        mode = "" if training else ", training=False"
        return (
            f"from pretexture.loader import {', '.join(names)}\n"
            f"loader = Loader({self._call}, {sentence}, "
            f"batch_size={self._batch_size}{mode}, seed={seed})"
        )
