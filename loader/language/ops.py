"""The primitive operations that every backend carries out, and when each may follow the others.

Users write steps; each step turns, for training or for evaluation, into a few of these operations.
`follow` is the rule of an operation: what must not come before it, and how it changes the size and
the number of an image's views. So the checker is a loop that passes an `Outline` along.

`stream` numbers the random draws of an operation (see `pretexture.loader.epoch.draws`). It depends
only on the step's place in the pipeline, so training and evaluation agree on it.
"""

import dataclasses
from typing import ClassVar, Optional, Tuple

from ..errors import PipelineError

METHODS = ("bilinear", "nearest", "bicubic", "area")
COORDS = ("half_pixel", "tf1")

MAX_VIEWS = 4096


@dataclasses.dataclass
class Outline:
    """What is known about an image's views between two operations, whatever the image.

    Attributes:
        step: text of the step that the next operation belongs to.
        size: height and width of a view, pixels; None if they differ from image to image.
        views: dimensions that splits have added, outermost first.
        label_dims: dimensions of an image's label.
        grid: patches per side if the latest split cut views into patches, otherwise None.
        decoded: whether the pixels are still the bytes that were decoded.
        label_step, resized, distorted, whole_view, placed, normalized, by_channel, standardized:
            the step that set the label, resized the image, changed its colours, made pixels depend
            on the whole view or on their places in it, normalised, normalised channels differently,
            and so on; None if no step has.
    """

    step: str = ""
    size: Optional[Tuple[int, int]] = None
    views: Tuple[int, ...] = ()
    label_dims: Tuple[int, ...] = ()
    grid: Optional[int] = None
    decoded: bool = True
    label_step: Optional[str] = None
    resized: Optional[str] = None
    distorted: Optional[str] = None
    whole_view: Optional[str] = None
    placed: Optional[str] = None
    normalized: Optional[str] = None
    by_channel: Optional[str] = None
    standardized: Optional[str] = None

    def split(self, n: int, grid: Optional[int] = None) -> None:
        """Every view becomes n views, in a grid of patches if `grid` is given."""
        self.check_move()
        count = n
        for views in self.views:
            count *= views
        if count > MAX_VIEWS:
            raise PipelineError(f"{count} views of an image are more than the {MAX_VIEWS} allowed")
        self.views, self.grid = (*self.views, n), grid

    def resize(self, size: Optional[Tuple[int, int]]) -> None:
        """Every view is resampled to this height and width."""
        if self.resized:
            raise PipelineError(
                f"the image is already resized by {self.resized}, and a view is resampled only "
                "once; leave one of the two out"
            )
        if self.distorted or self.standardized:
            raise PipelineError(f"must come before {self.distorted or self.standardized}")
        self.size, self.resized = size, self.step

    def check_cut(self) -> None:
        """A part of every view is taken next."""
        if self.whole_view:
            raise PipelineError(
                f"must come before {self.whole_view}, which depends on the whole view"
            )
        self.check_move()

    def check_move(self) -> None:
        """Pixels of every view are moved next."""
        if self.placed:
            raise PipelineError(f"must come before {self.placed}, whose place in the view is drawn")

    def check_size(self) -> None:
        """The size of the view must be known next."""
        if not self.size:
            raise PipelineError("needs a view of a fixed size; put a resize or a crop before it")

    def color(self) -> None:
        """Colours are changed next."""
        done = self.normalized or self.standardized
        if done:
            raise PipelineError(
                f"must come before {done}: colours are changed on pixels of [0, 255]"
            )

    def check_label(self) -> None:
        """The label is set next."""
        if self.label_step:
            raise PipelineError(f"the label is already given by {self.label_step}")

    def label(self, dims: Tuple[int, ...]) -> None:
        """The operation sets the label, of these dimensions."""
        self.label_step, self.label_dims = self.step, dims


@dataclasses.dataclass(frozen=True)
class Op:
    """The base class of all operations.

    Attributes:
        keeps_bytes: whether the operation only chooses among decoded pixels, and changes none.
        stream: stream of random numbers that the operation draws from.
    """

    keeps_bytes: ClassVar[bool] = False

    stream: int

    def follow(self, outline: Outline) -> None:
        """Checks that the operation can come next, and updates the outline.

        Raises: PipelineError with the reason.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Views(Op):
    """Splits into n equal views, whose later draws differ."""

    n: int

    def follow(self, outline: Outline) -> None:
        """Adds a dimension of n views."""
        outline.split(self.n)


@dataclasses.dataclass(frozen=True)
class Resize(Op):
    """Resamples to height x width; `randomize` draws the method instead."""

    height: int
    width: int
    method: str
    coords: str
    antialias: bool
    randomize: bool

    def follow(self, outline: Outline) -> None:
        """Sets the size."""
        outline.resize((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class ResizeSmall(Op):
    """Area averaging to a smaller side of `size`, keeping the aspect ratio."""

    size: int

    def follow(self, outline: Outline) -> None:
        """Leaves a size that depends on the image."""
        outline.resize(None)


@dataclasses.dataclass(frozen=True)
class Crop(Op):
    """A window of height x width, at a uniform random position or in the centre."""

    keeps_bytes: ClassVar[bool] = True

    height: int
    width: int
    random: bool

    def follow(self, outline: Outline) -> None:
        """Sets the size, if the window fits."""
        outline.check_cut()
        if outline.size:
            height, width = outline.size
            if self.height > height or self.width > width:
                raise PipelineError(
                    f"a crop of {self.height}x{self.width} does not fit in {height}x{width} pixels"
                )
        outline.size = (self.height, self.width)


@dataclasses.dataclass(frozen=True)
class InceptionCrop(Op):
    """A random window with relative `area` and `aspect` (width / height) in the given ranges.

    Without `last_position` it touches the bottom or the right edge only if it is as high or as wide
    as the image.
    """

    keeps_bytes: ClassVar[bool] = True

    area: Tuple[float, float]
    aspect: Tuple[float, float]
    last_position: bool

    def follow(self, outline: Outline) -> None:
        """Leaves a size that depends on the draws."""
        outline.check_cut()
        outline.size = None


@dataclasses.dataclass(frozen=True)
class CentralFraction(Op):
    """The central window, after int(side x (1 - fraction) / 2) pixels are cut off at each edge."""

    keeps_bytes: ClassVar[bool] = True

    fraction: float

    def follow(self, outline: Outline) -> None:
        """Leaves a size that depends on the image."""
        outline.check_cut()
        outline.size = None


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Op):
    """A random window with relative `area` and `aspect` (width / height), resampled to one size.

    `log_aspect` has the logarithms of `aspect`. Values of a bicubic result are clipped.
    """

    height: int
    width: int
    area: Tuple[float, float]
    aspect: Tuple[float, float]
    log_aspect: Tuple[float, float]
    method: str
    antialias: bool

    def follow(self, outline: Outline) -> None:
        """Sets the size."""
        outline.check_cut()
        outline.resize((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class CentralResizedCrop(Op):
    """The centre of the view, after its smaller side is resampled to `size`.

    The other side becomes `size` times the aspect ratio, rounded down, and the offset of the window
    is rounded to even. Values of a bicubic result are clipped.
    """

    height: int
    width: int
    size: int
    method: str
    antialias: bool

    def follow(self, outline: Outline) -> None:
        """Sets the size."""
        outline.check_cut()
        outline.resize((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class Flip(Op):
    """Left-right with probability 1/2."""

    keeps_bytes: ClassVar[bool] = True

    def follow(self, outline: Outline) -> None:
        """Moves pixels."""
        outline.check_move()


@dataclasses.dataclass(frozen=True)
class Gray(Op):
    """With the given probability every channel becomes the mean of the three.

    With `wrap` it is the sum of the three bytes modulo 256, divided by three and rounded down; with
    `luma` it is 0.2989 R + 0.587 G + 0.114 B.
    """

    probability: float
    wrap: bool
    luma: bool = False

    def follow(self, outline: Outline) -> None:
        """Changes colours; with `wrap` only those of decoded bytes."""
        if self.wrap and not outline.decoded:
            raise PipelineError(
                "wrap=True works on bytes: it must come before all steps that resize, split or "
                "colour the image"
            )
        outline.color()


@dataclasses.dataclass(frozen=True)
class Distort(Op):
    """Colour distortion: brightness and saturation; with `fast=False` hue and contrast too."""

    fast: bool

    def follow(self, outline: Outline) -> None:
        """Changes colours; contrast uses the mean of the whole view."""
        outline.color()
        outline.distorted = outline.step
        if not self.fast:
            outline.whole_view = outline.step


@dataclasses.dataclass(frozen=True)
class ColorJitter(Op):
    """With the given probability, torchvision's colour changes in random order, each clipped.

    Brightness scales by a factor from its range; contrast and saturation move each value away from
    the mean luma of the view or from its pixel's luma; hue turns by a part of the circle.
    """

    brightness: Tuple[float, float]
    contrast: Tuple[float, float]
    saturation: Tuple[float, float]
    hue: Tuple[float, float]
    probability: float

    def follow(self, outline: Outline) -> None:
        """Changes colours; contrast uses the mean of the whole view."""
        outline.color()
        outline.distorted = outline.step
        if self.contrast != (1, 1):
            outline.whole_view = outline.step


@dataclasses.dataclass(frozen=True)
class Blur(Op):
    """With the given probability a Gaussian of `kernel_size` taps; views are mirrored at the edge.

    A `kernel_size` of 0 means a tenth of the view's height, rounded down, made odd.
    """

    sigma: Tuple[float, float]
    probability: float
    kernel_size: int

    def follow(self, outline: Outline) -> None:
        """Changes colours, by those of neighbouring pixels."""
        outline.color()
        outline.check_size()
        assert outline.size
        radius = (self.kernel_size or outline.size[0] // 10) // 2
        if radius >= min(outline.size):
            raise PipelineError(
                f"a kernel of {2 * radius + 1} pixels is too large for a view of "
                f"{outline.size[0]}x{outline.size[1]} pixels"
            )
        outline.distorted = outline.whole_view = outline.step


@dataclasses.dataclass(frozen=True)
class Solarize(Op):
    """With the given probability, values x that are not below the threshold become 255 - x."""

    threshold: float
    probability: float

    def follow(self, outline: Outline) -> None:
        """Changes colours."""
        outline.color()
        outline.distorted = outline.step


@dataclasses.dataclass(frozen=True)
class Erase(Op):
    """With the given probability a random rectangle of the view gets the value.

    `log_aspect` has the logarithms of the smallest and the largest height / width.
    """

    area: Tuple[float, float]
    log_aspect: Tuple[float, float]
    value: Tuple[float, float, float]
    probability: float

    def follow(self, outline: Outline) -> None:
        """Changes colours, in a place of the view."""
        outline.color()
        outline.check_size()
        outline.distorted = outline.whole_view = outline.placed = outline.step


@dataclasses.dataclass(frozen=True)
class Patches(Op):
    """Splits into n x n patches, row by row, each `jitter` pixels smaller than its cell."""

    n: int
    jitter: int
    random: bool

    def follow(self, outline: Outline) -> None:
        """Sets the size to that of a patch, and adds a dimension of n * n."""
        outline.check_cut()
        if not outline.size:
            raise PipelineError("needs an image of a fixed size; put a resize or a crop before it")
        height, width = (side // self.n - self.jitter for side in outline.size)
        if height < 1 or width < 1:
            raise PipelineError(
                f"{self.n}x{self.n} cells of {outline.size[0]}x{outline.size[1]} pixels less a "
                f"jitter of {self.jitter} leave no patch"
            )
        outline.split(self.n**2, grid=self.n)
        outline.size = (height, width)


@dataclasses.dataclass(frozen=True)
class Jigsaw(Op):
    """Puts patch `permutations[label][i]` in place i.

    The label is drawn, or without `random` it is the record number mod the number of permutations.
    """

    permutations: Tuple[Tuple[int, ...], ...]
    random: bool

    def follow(self, outline: Outline) -> None:
        """Sets the label of the patches of one grid."""
        outline.check_label()
        if outline.grid is None:
            raise PipelineError("needs patches before it, and no other split between")
        cells, places = outline.grid**2, len(self.permutations[0])
        if places != cells:
            raise PipelineError(f"permutes {places} patches, but there are {cells}")
        outline.label(outline.views[:-1])
        outline.grid = None


@dataclasses.dataclass(frozen=True)
class Pair(Op):
    """Keeps the centre patch and neighbour number `label`, which is chosen as for `Jigsaw`."""

    random: bool

    def follow(self, outline: Outline) -> None:
        """Leaves two patches of each grid, and sets its label."""
        outline.check_label()
        if outline.grid is None or outline.grid % 2 == 0 or outline.grid < 3:
            raise PipelineError(
                "needs patches(n) with an odd n of 3 or more before it, and no split between"
            )
        outline.label(outline.views[:-1])
        outline.views = (*outline.views[:-1], 2)
        outline.grid = None


@dataclasses.dataclass(frozen=True)
class Rotate(Op):
    """Splits into the view turned by 0, 90, 180 and 270 degrees counter-clockwise."""

    def follow(self, outline: Outline) -> None:
        """Adds a dimension of 4 views, each with a label."""
        outline.check_label()
        outline.check_size()
        assert outline.size
        height, width = outline.size
        if height != width:
            raise PipelineError(f"only square views can be turned, these are {height}x{width}")
        outline.split(4)
        outline.label(outline.views)


@dataclasses.dataclass(frozen=True)
class Normalize(Op):
    """x * scale + bias for each channel, on values of [0, 255]."""

    scale: Tuple[float, float, float]
    bias: Tuple[float, float, float]

    def follow(self, outline: Outline) -> None:
        """Ends the changes of colours."""
        done = outline.normalized or outline.standardized
        if done:
            raise PipelineError(f"values are already normalised by {done}")
        outline.normalized = outline.step
        if len(set(self.scale)) > 1 or len(set(self.bias)) > 1:
            outline.by_channel = outline.step


@dataclasses.dataclass(frozen=True)
class Standardize(Op):
    """(x - mean) / max(std, 1 / sqrt(n)) over all n values of the view."""

    def follow(self, outline: Outline) -> None:
        """Ends the changes of colours, and takes statistics over the whole view."""
        if outline.standardized:
            raise PipelineError(f"values are already standardised by {outline.standardized}")
        if outline.by_channel:
            raise PipelineError(
                "takes one mean and one standard deviation over all channels of a view, but "
                f"{outline.by_channel} has already scaled each channel by its own; leave one of "
                "the two out"
            )
        outline.standardized = outline.whole_view = outline.step
