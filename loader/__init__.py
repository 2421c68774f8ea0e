"""The data pipeline: ImageNet TFRecords to ready batches of views, through a compiled core.

```python
from pretexture.loader import Loader, TFRecords, presets

records = TFRecords("/data/imagenet/train-*")
loader = Loader(records, presets.ROTATION, batch_size=64, seed=0, threads=8)
for batch in loader:  # one epoch
    batch.image, batch.label, batch.index
```
"""

from typing import List

from . import moved, presets
from .epoch.order import WindowShuffle
from .errors import PipelineError, RecordError
from .language.pipeline import Pipeline
from .loader import ArraySpec, Batch, Loader, Stats
from .shards.image_folder import ImageFolder
from .shards.imagenet import imagenet
from .shards.records import TFRecords
from .shards.source import Record, Records
from .shards.webdataset import WebDataset

# Modules of this package that are for users, too.
_MODULES = ["prepare", "preview", "tensorflow", "torch"]

__all__ = [
    "ArraySpec",
    "Batch",
    "ImageFolder",
    "Loader",
    "Pipeline",
    "PipelineError",
    "Record",
    "RecordError",
    "Records",
    "Stats",
    "TFRecords",
    "WebDataset",
    "WindowShuffle",
    "imagenet",
    "presets",
]

moved.install(__name__, moved.MOVED)


def __dir__() -> List[str]:
    """The public names, which a prompt completes. The modules behind them can be imported, too."""
    return sorted([*__all__, *_MODULES])
