"""Data preparation: folders of images become TFRecord shards.

`convert` and `convert_demo` do what the command `pretexture prepare` does. They need Pillow and
protobuf, which `pip install 'pretexture[prepare]'` installs; importing this package needs neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversion import Dataset, convert, convert_demo
    from .image_folder import ImageError

__all__ = ["Dataset", "ImageError", "convert", "convert_demo"]


def __getattr__(name: str) -> Any:
    """Imports what needs Pillow when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import conversion

    return getattr(conversion, name)
