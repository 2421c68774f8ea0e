"""TFRecord shards as a random-access sequence of encoded images and labels."""

import contextlib
import os
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from .. import _core
from ..console.arguments import whole
from ..console.paths import Path
from .access import Opener, Shards
from .index import TFRECORD, Format, Index
from .record_options import FEATURES
from .sharded import ShardedRecords
from .source import Encoded, ExampleReader, Record

__all__ = ["LABEL_KEY", "Record", "TFRecords"]  # Record stood here before

# The feature with the class label in the layout of TF-Slim; it may be missing.
LABEL_KEY = "image/class/label"

# What TF-Slim and TensorFlow Datasets write.
_SLIM: Dict[str, Any] = {"image_key": "image/encoded", "label_key": LABEL_KEY, "label_offset": 1}
_TFDS: Dict[str, Any] = {"image_key": "image", "label_key": "label", "label_offset": 0}


class TFRecords(ShardedRecords):
    """The records of TFRecord shards, in the order of the shards.

    The shards are scanned on first use, at a few thousand shards per second if they are in the page
    cache. The index is kept in `cache_dir` and read from there until a shard changes.

    Shards may be at URLs that fsspec knows (`s3://`, `obs://`, `gs://`, `https://`, …). They are
    copied whole to a folder in `cache_dir` when they are needed or shortly before, and removed from
    there when others need the room. To make the index, each shard is copied once. See
    https://github.com/pretexture/pretexture/blob/main/docs/storage.md.

    Args:
        pattern_or_paths: a glob pattern, a path or URL, or several paths or URLs. The matches of a
            pattern are sorted by name. If a folder has exactly the name in the pattern, that folder
            is meant, even if the name has brackets. Paths may be text, bytes or path objects, in
            any encoding, and begin with `~`.
        image_key: name of the feature with the encoded image. Default: "image/encoded", as TF-Slim
            writes it; or "image", as TensorFlow Datasets does, if the first record has only that.
            Shards at URLs have not been read yet, so their names decide.
        label_key: name of the feature with the class label, an int64. Default: "image/class/label",
            or "label" likewise. A record without "image/class/label" has no label; a record without
            another feature that is meant is an error.
        label_offset: number that is subtracted from labels. Default: 1, because TF-Slim's labels
            count from 1; or 0 likewise. A stored label of -1 means "no label" and stays -1; other
            labels may not fall below 0.
        verify_crc: whether the checksum of each record's data is checked when it is read.
        row_index: "auto" keeps in `cache_dir` where the rows of each JPEG begin, so that later
            epochs need not decode what lies above and beside a crop. It takes at most 0.6% of the
            size of the shards, and no pixel depends on it. "off" does without. It needs
            `verify_crc`.
        cache_dir: folder for indexes and for copies of remote shards. Default:
            `$XDG_CACHE_HOME/pretexture` or `~/.cache/pretexture`.
        cache_size: bytes that these copies may take, together with those of other processes that
            use the folder. Default: nine tenths of the free space of its disk. Shards that are read
            at the same time are kept even if they take more.
        endpoint_url: URL of the service for `s3://` and `obs://` URLs. Default: AWS_ENDPOINT_URL in
            the environment. `obs://` needs one.
        storage_options: options of the file system, as fsspec documents them.

    Raises: FileNotFoundError if nothing matches; ImportError for URLs without fsspec; on first use
        RecordError for a shard that is empty, truncated or not a TFRecord file, and OSError for a
        shard that cannot be fetched.
    """

    def __init__(
        self,
        pattern_or_paths: Union[Path, Sequence[Path]],
        image_key: Optional[str] = None,
        label_key: Optional[str] = None,
        label_offset: Optional[int] = None,
        verify_crc: bool = True,
        row_index: str = "auto",
        cache_dir: Optional[Path] = None,
        cache_size: Optional[int] = None,
        endpoint_url: Optional[str] = None,
        storage_options: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(
            pattern_or_paths, row_index, cache_dir, cache_size, endpoint_url, storage_options
        )
        if label_offset is not None:
            label_offset = whole("label_offset", label_offset, -(2**31), 2**31 - 1)
        self._given: Dict[str, Any] = {
            "image_key": image_key,
            "label_key": label_key,
            "label_offset": label_offset,
        }
        self._usual: Optional[Dict[str, Any]] = None
        self.verify_crc = bool(verify_crc)

    @property
    def image_key(self) -> str:
        """Name of the feature with the encoded image."""
        return self._feature("image_key")

    @property
    def label_key(self) -> str:
        """Name of the feature with the class label."""
        return self._feature("label_key")

    @property
    def label_offset(self) -> int:
        """Number that is subtracted from labels."""
        return self._feature("label_offset")

    @property
    def features(self) -> Dict[str, Any]:
        """The options that say which values of a record are its image and its label."""
        return {name: self._feature(name) for name in FEATURES}

    @property
    def label_required(self) -> bool:
        """Whether each record must have a label, because `label_key` names another feature."""
        return self.label_key != LABEL_KEY

    @property
    def format(self) -> Format:
        """How the shards are scanned, and their index kept."""
        return TFRECORD

    @property
    def has_row_index(self) -> bool:
        """Whether Loaders keep where the rows of each JPEG begin.

        Without `verify_crc` nobody knows whether an image is the one that the row index is about.
        """
        return super().has_row_index and self.verify_crc

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records; see `Records`."""
        return {
            **self._places("example", index, opener),
            "verify_crc": self.verify_crc,
            "image_key": self.image_key,
            "label_key": self.label_key,
            "label_offset": self.label_offset,
            "label_required": self.label_required,
        }

    def read(
        self,
        number: int,
        index: Index,
        shards: Shards,
        read_example: Optional[ExampleReader] = None,
    ) -> Encoded:
        """Reads a record for a backend in Python; see `Records`."""
        shard, offset, length = index.locate(number)
        with shards.use(shard) as path:
            return (read_example or _read_example)(self, path, offset, length)

    def class_label(self, data: bytes) -> int:
        """The class label of a serialised record; -1 if it has none.

        Raises: ValueError with the reason.
        """
        return _core.class_label(
            data, self.image_key, self.label_key, self.label_offset, self.label_required
        )

    def _feature(self, name: str) -> Any:
        """A name or number that was given, or else the one that such shards have."""
        if self._given[name] is not None:
            return self._given[name]
        if self._usual is None:
            self._usual = self._find_usual()
        return self._usual[name]

    def _find_usual(self) -> Dict[str, Any]:
        """The layout of TF-Slim or of TensorFlow Datasets, whichever the first record has."""
        # If the shards are broken, a Loader will say what is wrong.
        with contextlib.suppress(ValueError, OSError, IndexError):
            if not self.remote:
                index = self.shard_index("skip")
                shard, offset, length = index.locate(0)
                path = os.fsencode(self.paths[shard])
                data = _core.read_record(path, offset, length, False)
                for layout in (_SLIM, _TFDS):
                    with contextlib.suppress(ValueError):
                        _core.parse_example(data, layout["image_key"], layout["label_key"])
                        return layout
        return _TFDS if ".tfrecord-" in os.path.basename(self.paths[0]) else _SLIM


def _read_example(records: TFRecords, path: str, offset: int, length: int) -> Encoded:
    data = _core.read_record(os.fsencode(path), offset, length, records.verify_crc)
    image, _ = _core.parse_example(data, records.image_key, records.label_key)
    return Encoded(image, length, lambda: records.class_label(data))
