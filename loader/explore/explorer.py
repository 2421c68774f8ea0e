"""The views of chosen records, and the records themselves, for a page that shows them."""

from typing import Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .. import _core
from ..arrangement import Arranged, arrange, splits
from ..console import processors
from ..errors import PipelineError, RecordError
from ..language.check import BranchPlan
from ..language.pipeline import Pipeline
from ..loader import Loader
from ..samples import class_name
from ..shards.source import Records
from . import limits
from .reading import ReadOnly

SOURCE_SIDE = 320  # longer side of a record's own image on the page, pixels


class Draw(NamedTuple):
    """What the views of a record depend on, besides the pipeline.

    Attributes:
        training: whether views are made as in training (True) or as in evaluation.
        seed, epoch: random seed and number of the epoch.
    """

    training: bool
    seed: int
    epoch: int


class Shown(NamedTuple):
    """The views of a record.

    Attributes:
        number: number of the record.
        branches: the first views of each branch as they are arranged; none if there is an error.
        error: why the record cannot be used; "" if it can.
    """

    number: int
    branches: Tuple[Arranged, ...] = ()
    error: str = ""


class Source(NamedTuple):
    """A record itself.

    Attributes:
        number: number of the record.
        place: path of the file, and the record's offset there.
        label: class label in words; "" if the record cannot be read.
        size: height and width of the image, pixels; None if its header cannot be read.
        pixels: the image, uint8 [H, W, 3], made smaller if it is large; None if it cannot be
            decoded.
    """

    number: int
    place: str
    label: str = ""
    size: Optional[Tuple[int, int]] = None
    pixels: Optional[np.ndarray] = None


class Explorer:
    """Makes the views of chosen records.

    They are those of a `Loader` of the same seed, bit for bit. Several threads may use it at once.

    Args:
        records: the records.
        classes: names of the classes in the order of their labels; may be shorter.

    Attributes:
        faults: the errors of broken shards, whose rest is left out.
    """

    def __init__(self, records: Records, classes: Sequence[str] = ()):
        self._records = ReadOnly(records)
        self._classes = classes
        self.faults = self._records.faults

    def __len__(self) -> int:
        return len(self._records)

    def plan(self, pipeline: Pipeline, training: bool) -> Tuple[Pipeline, int]:
        """What of a pipeline is shown.

        Returns: a pipeline that makes the first views, and the number of records that are shown at
            once at most.
        Raises: PipelineError if the views of a single record are too large.
        """
        shown = limits.first_views(pipeline, training)
        size = limits.view_bytes(shown.compile(training))
        if size > limits.BYTES:
            raise PipelineError(
                f"the views of an image have {size / 3e6:.0f} megapixels, and this page shows up "
                f"to {limits.BYTES / 3e6:.0f}"
            )
        return shown, max(1, min(limits.RECORDS, limits.BYTES // size))

    def views(
        self,
        pipeline: Pipeline,
        draw: Draw,
        first: int,
        count: int,
        outdated: Callable[[], bool] = lambda: False,
    ) -> Iterator[Shown]:
        """The views of consecutive records. A record that cannot be used has an error instead.

        Args:
            pipeline: what `plan` returned.
            draw: what else the views depend on.
            first: number of the first record.
            count: number of records; fewer at the end of the data set.
            outdated: function that says whether nobody waits for the rest any more.
        """
        end = min(first + count, len(self))
        if first >= end:
            return
        plan = pipeline.compile(draw.training)
        plans = list(zip(plan.branches, limits.most_views(plan)))
        with Loader(
            self._records,
            pipeline,
            1,
            training=draw.training,
            seed=draw.seed,
            shuffle=False,
            drop_remainder=False,
            threads=min(processors.available(), end - first),
            prefetch=end - first,
            dtype="uint8",
        ) as loader:
            state = loader.state_dict()
            batches = None
            for number in range(first, end):
                if outdated():
                    return
                try:
                    if batches is None:
                        loader.load_state_dict({**state, "epoch": draw.epoch, "batch": number})
                        batches = iter(loader)
                    batch = next(batches)
                except (RecordError, MemoryError) as error:
                    batches = None
                    yield Shown(number, error=str(error))
                    continue
                images = batch.image if isinstance(batch.image, tuple) else (batch.image,)
                label = batch.label[0]
                yield Shown(
                    number,
                    tuple(
                        _arranged(image[0], label, branch, most)
                        for image, (branch, most) in zip(images, plans)
                    ),
                )

    def source(self, number: int) -> Source:
        """A record itself, as far as it can be read."""
        path, offset = self._records.where(number, self._records.shard_index())
        found = Source(number, path if offset is None else f"{path} at byte {offset}")
        try:
            record = self._records[number]
            found = found._replace(label=class_name(record.label, self._classes))
            height, width = _core.image_size(record.image)
        except (ValueError, MemoryError):  # the error is beside the views
            return found
        scale = min(1.0, SOURCE_SIDE / max(height, width))
        h, w = (max(1, round(side * scale)) for side in (height, width))
        whole = Pipeline(f"resize({h}, {w}, method='area')")
        (shown,) = self.views(whole, Draw(False, 0, 0), number, 1)
        pixels = shown.branches[0].view if shown.branches else None
        return found._replace(size=(height, width), pixels=pixels)


def _arranged(views: np.ndarray, label: np.ndarray, branch: BranchPlan, most: int) -> Arranged:
    """The first views of a branch as they are arranged."""
    own = label if branch.sets_label else np.int32(-1)
    return limits.first_parts(arrange(views, splits(branch), own), most)
