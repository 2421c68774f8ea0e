"""Training steps of a ResNet-50 on photographs: ours, and Keras's network in `model.fit`.

Both train on the views of `SUPERVISED` with stochastic gradient descent and momentum: ours as
`pretrain supervised` does, from the Loader, and Keras's ResNet50V2 from the fused tf.data pipeline.
"""

import queue
import threading
from typing import Any, Callable, Dict, Iterator, Tuple

import tensorflow as tf
from pretexture.loader.console.interrupt import Interrupt
from pretexture.trainers import engines, tasks
from pretexture.trainers.engines.engine import Follower, StepResult, Wishes
from pretexture.trainers.recipes import RECIPES

from . import tfdata
from .jobs import KERAS, TASKS, Job, Source
from .pretexture_loader import Batches

_CLASSES = 1000
_STEPS = 10**9  # more than are ever made


def open(job: Job) -> Source:
    """The steps of a job; each item is a step that was made, without arrays."""
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    return _Keras(job) if job.contender == KERAS else _Ours(job)


class _Steps(Source):
    """Steps that a training loop makes in a thread of its own.

    Args:
        train: the loop; it is given a function to call after each step.
    """

    def __init__(self, train: Callable[[Callable[[], None]], None]):
        self._train = train

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        made: queue.Queue[Any] = queue.Queue()

        def run() -> None:
            try:
                self._train(lambda: made.put(None))
            except Exception as error:
                made.put(error)

        threading.Thread(target=run, daemon=True).start()
        while True:
            error = made.get()
            if error is not None:
                raise error
            yield None, None


class _Told(Follower):
    def __init__(self, after_step: Callable[[], None]):
        self._after_step = after_step

    def shows(self, step: int) -> bool:
        return False

    def wishes(self) -> Wishes:
        return Wishes()

    def needs_state(self, step: int) -> bool:
        return False

    def after(self, result: StepResult) -> bool:
        self._after_step()
        return True


class _Ours(_Steps):
    def __init__(self, job: Job):
        recipe = RECIPES["supervised"].replace(
            batch_size=job.batch_size, precision=TASKS[job.task].trains_in
        )
        backend = engines.choose()
        place = backend.open_device("cpu")
        task = tasks.build(recipe)
        self._batches = Batches(job)
        loader = self._batches.loader
        spec = loader.element_spec
        engine = backend.Engine(recipe, task, spec, len(loader), job.seed, place)
        super().__init__(lambda told: engine.fit(loader, _STEPS, _Told(told), Interrupt()))

    def times(self) -> Dict[str, float]:
        return self._batches.times()


class _Keras(_Steps):
    def __init__(self, job: Job):
        keras = tf.keras
        if TASKS[job.task].trains_in == "mixed":
            keras.mixed_precision.set_global_policy("mixed_bfloat16")
        model = keras.applications.ResNet50V2(weights=None, classes=_CLASSES)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        images = tfdata.batches(job, tfdata.Fused().supervised)

        class Told(keras.callbacks.Callback):  # type: ignore[name-defined]
            """Tells of each step."""

            def __init__(self, told: Callable[[], None]):
                super().__init__()
                self._told = told

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                self._told()

        super().__init__(
            lambda told: model.fit(
                images, steps_per_epoch=_STEPS, epochs=1, verbose=0, callbacks=[Told(told)]
            )
        )
