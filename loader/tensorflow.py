"""A `Loader` as a `tf.data.Dataset`, on TensorFlow 1.15, 2.6 and current.

`position` and `keras_backup` resume it. They count the batches that were trained on, because
TensorFlow may draw some batches ahead, and `loader.state_dict()` is then ahead of the training.
"""

import atexit
import gc
import inspect
import json
import os
import time
import weakref
from typing import Any, Callable, ClassVar, Iterator, List, NamedTuple

from .console import files
from .loader import Batch, Loader


class Example(NamedTuple):
    """An element of a dataset: what Keras calls x and y.

    Attributes:
        image: as in `Batch`.
        label: as in `Batch`.
    """

    image: Any
    label: Any


def dataset(loader: Loader, *, index: bool = False, repeat: bool = False) -> Any:
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
        repeat: whether epochs follow one another without end, as `model.fit` with `steps_per_epoch`
            needs it. A state may then be loaded at any time before the first element.

    Raises: ImportError if TensorFlow is not installed. Errors of the loader reach the consumer as
        TensorFlow errors that quote them.
    """
    tf = _tensorflow()

    def element(batch: Any) -> Any:
        return dict(zip(Batch._fields, batch)) if index else Example(*batch[:2])

    # A wrapper of a Loader may lack these two.
    whole = not repeat and getattr(loader, "begins_an_epoch", False)
    close = getattr(loader, "close", lambda: None)
    current: Any = lambda: None  # noqa: E731  # a weak reference to the iteration in use

    def batches() -> Iterator[Any]:
        nonlocal current
        if whole and not loader.begins_an_epoch:
            raise RuntimeError(
                "the Loader's state was loaded after dataset(loader) was called, and the rest of "
                "an epoch has fewer batches than the dataset says; call dataset(loader) again, or "
                "make it with repeat=True"
            )
        if tf.executing_eagerly() and _in_use(current):
            raise RuntimeError(
                "another iterator of this dataset is in use, and a Loader runs one epoch at a "
                "time; finish or delete that iterator, or make a second Loader"
            )
        iteration = _Iteration(map(element, _endless(loader) if repeat else loader), close)
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


def position(loader: Loader) -> Any:
    """Which batch of a loader is trained on next, for a `tf.train.Checkpoint`.

    Call `advance()` after each step. Saving the checkpoint saves the state of a loader that gave
    just these batches; restoring it loads that state, whatever TensorFlow had drawn ahead::

        place = position(loader)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, loader=place)
        checkpoint.restore(tf.train.latest_checkpoint(folder))
        for image, label in dataset(loader):
            train(image, label)
            place.advance()

    Restore before `dataset(loader)`, and call `position(loader)` before the iteration begins.
    The object also has `state()`, the state as a dict.
    """
    base: Any = _tensorflow().train.experimental.PythonState

    class Position(base):
        def __init__(self) -> None:
            self._find()

        def _find(self) -> None:
            state = loader.state_dict()
            self._epoch, self._batch = state["epoch"], state["batch"]
            if self._batch and loader.begins_an_epoch:  # the last iteration has ended
                self._epoch, self._batch = self._epoch + 1, 0

        def advance(self, batches: int = 1) -> None:
            self._batch += batches
            while self._batch >= loader.share.batches_in(self._epoch):
                self._batch -= loader.share.batches_in(self._epoch)
                self._epoch += 1

        def state(self) -> Any:
            return loader.share.state(self._epoch, self._batch)

        def load(self, state: Any) -> None:
            loader.load_state_dict(state)
            self._find()

        # What PythonState asks for.

        def serialize(self) -> str:
            return json.dumps(self.state())

        def deserialize(self, string_value: Any) -> None:
            self.load(json.loads(string_value))

    return Position()


def keras_backup(loader: Loader, path: str) -> Any:
    """A Keras callback: `model.fit` resumes the loader if `BackupAndRestore` resumes the model.

    ::

        model.fit(
            dataset(loader),
            epochs=90,
            callbacks=[BackupAndRestore(folder), keras_backup(loader, folder + ".loader")],
        )

    The number of steps that the restored optimizer has taken says how many batches were trained
    on, so the loader continues with the very next one, whenever the run was interrupted. At each
    epoch's end, the file remembers which batch belongs to which number of steps. It does not belong
    in BackupAndRestore's own folder, which is deleted after the training.

    With `BackupAndRestore(folder, save_freq=N)`, backups are in mid-epoch; the training data must
    then be `dataset(loader, repeat=True)`, with `steps_per_epoch=len(loader)`. Keras counts the
    epoch that was interrupted from its beginning, so it takes more steps in total.

    Steps that a loss scale skips are not counted until the epoch ends, so a backup in mid-epoch
    then trains on as many batches again. Gradient accumulation is not supported in mid-epoch.

    Args:
        loader: the loader that the training data come from, in a dataset without `take` or `skip`.
        path: file for the states; its folders are created.
    """
    base: Any = _tensorflow().keras.callbacks.Callback

    class KerasBackup(base):
        def on_train_begin(self, logs: Any = None) -> None:
            self._position: Any = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if self._position is None:  # other callbacks have restored the model by now
                self._position = position(loader)
                self._resume()
            self._seen = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps = self.params.get("steps")
            if steps and batch >= steps:
                raise ValueError("steps_per_execution must divide the number of steps per epoch")
            self._position.advance(batch + 1 - self._seen)
            self._seen = batch + 1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self._remember()

        def _steps(self) -> int:
            return int(self.model.optimizer.iterations)

        def _resume(self) -> None:
            self._marks: List[Any] = []
            if self._steps() and os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    marks = json.load(file)
                self._marks = [mark for mark in marks if mark["steps"] <= self._steps()]
                if not self._marks:
                    raise ValueError(
                        f"{path} begins at step {marks[0]['steps']}, and the optimizer has taken "
                        f"{self._steps()} steps; remove the file if it is of another training"
                    )
                self._position.load(self._marks[-1]["state"])
                self._position.advance(self._steps() - self._marks[-1]["steps"])
                self._position.load(self._position.state())
            self._remember()

        def _remember(self) -> None:
            self._marks.append({"steps": self._steps(), "state": self._position.state()})
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            files.write_text(path, json.dumps(self._marks))

    return KerasBackup()


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError:
        raise ImportError(
            "TensorFlow is not installed: pip install 'pretexture[tensorflow]'"
        ) from None
    return tensorflow


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _map(make: Callable[[Any], Any], spec: Batch) -> List[Any]:
    """What `make` makes of each specification; of an image with several branches a tuple."""
    return [tuple(map(make, s)) if type(s) is tuple else make(s) for s in spec]


class _Iteration:
    """An iterator that knows whether it has ended, and that ends before the interpreter does.

    TensorFlow reads ahead in threads of its own. If one of them waits for the interpreter's lock
    when the interpreter ends, Python ends that thread, and TensorFlow waits for it for ever.
    """

    all: ClassVar["weakref.WeakSet[_Iteration]"] = weakref.WeakSet()
    at_exit = False

    def __init__(self, elements: Iterator[Any], close: Callable[[], None]):
        self._elements = elements
        self.close = close
        self.ended = False
        self.in_call = False
        self.last_call = time.monotonic()
        self.all.add(self)

    def __iter__(self) -> "_Iteration":
        return self

    def __next__(self) -> Any:
        self.in_call = True
        try:
            if self.at_exit:
                raise StopIteration
            return next(self._elements)
        except BaseException:
            self.ended = True
            if self.at_exit:  # the Loader was closed during the call, and nobody waits for a batch
                raise StopIteration from None
            raise
        finally:
            self.last_call = time.monotonic()
            self.in_call = False


@atexit.register
def _end_all(quiet: float = 0.2, limit: float = 30.0) -> None:
    """Ends all iterations, and waits until none was called for `quiet` seconds."""
    _Iteration.at_exit = True
    iterations = list(_Iteration.all)
    for iteration in iterations:
        iteration.close()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        since = time.monotonic() - quiet
        if not any(i.in_call or i.last_call > since for i in iterations):
            return
        time.sleep(0.01)


def _in_use(reference: Any) -> bool:
    """Whether an iteration is still in use, and is not waiting for the garbage collector."""
    for collect in (False, True):
        if collect:
            gc.collect()
        iteration = reference()
        if iteration is None or iteration.ended:
            return False
    return True
