"""How records are read, and what happens to those that cannot be used; needs no TensorFlow."""

import dataclasses
from typing import Any, Dict, Optional

from .limits import MAX_PIXELS

# What `TFRecords` is told; what a run learns depends on it.
FEATURES = ("image_key", "label_key", "label_offset")


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """What `TFRecords` and `Loader` are told about the records.

    Attributes:
        image_key, label_key: features with the encoded image and the class label; None for those
            of the data's layout, see `imagenet`.
        label_offset: subtracted from labels, 0 for data whose labels count from 0; None for that of
            the data's layout.
        on_error: "raise" ends the run at a record that cannot be used; "skip" leaves it out.
        max_pixels: largest image that is decoded; a larger one is a record that cannot be used.
    """

    image_key: Optional[str] = None
    label_key: Optional[str] = None
    label_offset: Optional[int] = None
    on_error: str = "raise"
    max_pixels: int = MAX_PIXELS

    @property
    def features(self) -> Dict[str, Any]:
        """The arguments of `imagenet` that are not left to the data's layout."""
        values = {name: getattr(self, name) for name in FEATURES}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def loading(self) -> Dict[str, Any]:
        """The arguments of `Loader`."""
        return {"on_error": self.on_error, "max_pixels": self.max_pixels}


DEFAULT_RECORDS = RecordOptions()
