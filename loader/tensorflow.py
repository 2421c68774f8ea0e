"""A `Loader` as a `tf.data.Dataset`, on TensorFlow 1.15, 2.6 and current."""

import gc
import inspect
import weakref
from typing import Any, Callable, Iterator, List, NamedTuple

from .loader import Batch, Loader


class Example(NamedTuple):
    """An element of a dataset: what Keras calls x and y.

    Attributes:
        image: as in `Batch`.
        label: as in `Batch`.
    """

    image: Any
    label: Any


def dataset(loader: Loader, *, index: bool = False) -> Any:
    """One epoch of the loader for each iteration of the dataset.

    Elements are `Example(image, label)`, a pair that `model.fit`, `evaluate` and `predict` accept
    directly. Shapes are static, except for the batch size if the loader keeps an incomplete last
    batch. The loader prefetches, so `.prefetch` is needed only to overlap the copy to a device.

    `len(dataset)` is the number of batches (from TensorFlow 2.3 on). Load a state from the middle
    of an epoch before this call: the first epoch of the dataset is then the rest of that epoch, and
    TensorFlow does not know its length.

    A loader runs one epoch at a time. A second iterator is an error while the first one is in use
    (before TensorFlow 2, the first one fails instead). An iteration that is left early (`take(2)`,
    `steps_per_epoch`, `break`) ends its epoch, and the next iteration begins the next epoch. For
    validation during training make a second loader.

    Args:
        loader: the loader.
        index: whether elements are dicts with the keys image, label and index (int64 [N], record
            numbers). They are not tuples of three, because Keras takes the third part for sample
            weights.

    Raises: ImportError if TensorFlow is not installed. Errors of the loader reach the consumer as
        TensorFlow errors that quote them.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError(
            "TensorFlow is not installed: pip install 'pretexture[tensorflow]'"
        ) from None

    def element(batch: Any) -> Any:
        return dict(zip(Batch._fields, batch)) if index else Example(*batch[:2])

    whole = getattr(loader, "begins_an_epoch", False)
    current: Any = lambda: None  # noqa: E731  # a weak reference to the iteration in use

    def batches() -> Iterator[Any]:
        nonlocal current
        if whole and not loader.begins_an_epoch:
            raise RuntimeError(
                "the Loader's state was loaded after dataset(loader) was called, and the rest of "
                "an epoch has fewer batches than the dataset says; call dataset(loader) again"
            )
        if tf.executing_eagerly() and _in_use(current):
            raise RuntimeError(
                "another iterator of this dataset is in use, and a Loader runs one epoch at a "
                "time; finish or delete that iterator, or make a second Loader"
            )
        iteration = _Iteration(map(element, loader))
        current = weakref.ref(iteration)
        return iteration

    spec = loader.element_spec
    from_generator = tf.data.Dataset.from_generator
    if "output_signature" in inspect.signature(from_generator).parameters:
        signature = element(_map(lambda s: tf.TensorSpec(s.shape, s.dtype), spec))
        made = from_generator(batches, output_signature=signature)
    else:
        types = element(_map(lambda s: tf.as_dtype(s.dtype), spec))
        shapes = element(_map(lambda s: tf.TensorShape(s.shape), spec))
        made = from_generator(batches, types, shapes)
    assert_cardinality = getattr(tf.data.experimental, "assert_cardinality", None)
    if whole and assert_cardinality:
        made = made.apply(assert_cardinality(len(loader)))
    return made


def _map(make: Callable[[Any], Any], spec: Batch) -> List[Any]:
    """What `make` makes of each specification; of an image with several branches a tuple."""
    return [tuple(map(make, s)) if type(s) is tuple else make(s) for s in spec]


class _Iteration:
    """An iterator that knows whether it has ended."""

    def __init__(self, elements: Iterator[Any]):
        self._elements = elements
        self.ended = False

    def __iter__(self) -> "_Iteration":
        return self

    def __next__(self) -> Any:
        try:
            return next(self._elements)
        except BaseException:
            self.ended = True
            raise


def _in_use(reference: Any) -> bool:
    """Whether an iteration is still in use, and is not waiting for the garbage collector."""
    for collect in (False, True):
        if collect:
            gc.collect()
        iteration = reference()
        if iteration is None or iteration.ended:
            return False
    return True
