"""How records are read, and what happens to those that cannot be used; needs no TensorFlow."""

import dataclasses
from typing import Any, Dict

from pretexture.loader.limits import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """What `TFRecords` and `Loader` are told about the records.

    Attributes:
        image_key, label_key: features with the encoded image and the class label.
        label_offset: subtracted from labels; 0 for data whose labels count from 0.
        on_error: "raise" ends the run at a record that cannot be used; "skip" leaves it out.
        max_pixels: largest image that is decoded; a larger one is a record that cannot be used.
    """

    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    label_offset: int = 1
    on_error: str = "raise"
    max_pixels: int = MAX_PIXELS

    @property
    def features(self) -> Dict[str, Any]:
        """The arguments of `TFRecords`; what a run learns depends on them."""
        return {
            "image_key": self.image_key,
            "label_key": self.label_key,
            "label_offset": self.label_offset,
        }

    @property
    def loading(self) -> Dict[str, Any]:
        """The arguments of `Loader`."""
        return {"on_error": self.on_error, "max_pixels": self.max_pixels}


DEFAULT_RECORDS = RecordOptions()
