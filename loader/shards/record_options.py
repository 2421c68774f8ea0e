"""How records are read, and what happens to records that cannot be used."""

import dataclasses
from typing import Any, Dict, Optional

from .limits import MAX_PIXELS

# The arguments of `TFRecords` that a run's results depend on.
FEATURES = ("image_key", "label_key", "label_offset")


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """The arguments of `TFRecords` and `Loader` that are about the records.

    Attributes:
        image_key, label_key: names of the features with the encoded image and the class label;
            None for the names that `imagenet` finds.
        label_offset: number that is subtracted from labels, 0 if labels count from 0; None for the
            offset that `imagenet` finds.
        on_error: "raise" ends the run at a record that cannot be used; "skip" leaves it out.
        max_pixels: size of the largest image that is decoded, in pixels. A record with a larger
            image cannot be used.
    """

    image_key: Optional[str] = None
    label_key: Optional[str] = None
    label_offset: Optional[int] = None
    on_error: str = "raise"
    max_pixels: int = MAX_PIXELS

    @property
    def features(self) -> Dict[str, Any]:
        """The arguments of `imagenet` that are set."""
        values = {name: getattr(self, name) for name in FEATURES}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def loading(self) -> Dict[str, Any]:
        """The arguments of `Loader`."""
        return {"on_error": self.on_error, "max_pixels": self.max_pixels}


DEFAULT_RECORDS = RecordOptions()
