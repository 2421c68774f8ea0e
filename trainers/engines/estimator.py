"""Steps in the sessions of an Estimator: TensorFlow 1.15 on CPU and GPU.

The Estimator owns the loop; the report, checkpoints and the end of a run are a session hook, and
the loader's batches come through `tf.data`. Checkpoints are not the Estimator's but those of
`..checkpoints`, so that its folder is a passing one and a run goes on in either engine.
"""

import shutil
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.tensorflow import dataset

from .. import checkpoints, optimization
from ..layers import Scope
from ..recipes import Recipe
from ..tasks.task import Batch, Model, Task, objective
from .batches import endless, padded
from .devices import choose_gpu

v1: Any = tf.compat.v1


def open_device(name: str) -> str:
    """Chooses the device; to be called before anything else of TensorFlow.

    Args:
        name: "auto" takes a GPU where there is one; "cpu" or "gpu".

    Returns: the device in words.

    Raises: ValueError where there is no such device.
    """
    if name == "npu":
        raise ValueError(
            "--device npu needs an engine on Huawei's npu_bridge (TensorFlow 1.15), a wheel that "
            "comes with the CANN toolkit; this version of Pretexture has none yet: use --device "
            "cpu or gpu"
        )
    v1.logging.set_verbosity(v1.logging.ERROR)
    gpu = choose_gpu(name)
    return "CPU" if gpu is None else gpu.name


class Engine:
    """A model and how to train and evaluate it; as `tf2.Engine`, which see."""

    def __init__(self, recipe: Recipe, task: Task, spec: Any, steps_per_epoch: int, seed: int):
        if recipe.precision != "float32":
            raise ValueError(
                f"precision {recipe.precision}: TensorFlow {tf.__version__} computes in float32; "
                f"use --precision float32"
            )
        self._recipe = recipe
        self._task = task
        self._spec = spec
        self._seed = seed
        self._rate = optimization.schedule(recipe, steps_per_epoch)
        self._path: Optional[str] = None  # of the checkpoint to start from
        self._made = 0
        self._values: Callable[[], Dict[str, np.ndarray]] = self._initial
        with tf.Graph().as_default():
            _, scope = self._model()
            trained = [v for v in scope.variables.values() if v.trainable]
        self.parameters = sum(int(np.prod(v.shape.as_list())) for v in trained)

    @property
    def step(self) -> int:
        """How many steps the model has been trained for."""
        return self._made

    def state(self) -> Mapping[str, np.ndarray]:
        """The values of the variables by name: model, optimiser and step."""
        return self._values()

    def loader_state(self, loader: Any) -> Dict[str, Any]:
        """The loader's state after the last step's batch, whatever `tf.data` has taken since."""
        epoch, batch = divmod(self._made, len(loader))
        return {**loader.state_dict(), "epoch": epoch, "batch": batch}

    def restore(self, path: str) -> Dict[str, Any]:
        """Continues from a checkpoint; returns the loader's state. Raises CheckpointError."""
        self.restore_model(path)
        return checkpoints.read(path, ["global_step"])[1]

    def restore_model(self, path: str) -> None:
        """Takes model and step, not the optimiser, from a checkpoint. Raises CheckpointError."""
        values, _ = checkpoints.read(path, ["global_step"])
        self._path, self._made = path, int(values["global_step"])

    def fit(self, loader: Any, steps: int, after: Any) -> None:
        """Trains until so many steps have been made in all; see `tf2.Engine.fit`."""
        if self._made >= steps:
            return
        source = _Source(endless(loader), loader.element_spec, self._task)
        hook = _Training(self, source, after)
        self._run(
            source, lambda estimator, feed: estimator.train(feed, hooks=[hook], max_steps=steps)
        )

    def measure(
        self, loader: Any, after: Callable[[int, int], None]
    ) -> Tuple[int, Dict[str, float]]:
        """Counts a loader's images and adds up loss and metrics; see `tf2.Engine.measure`."""
        size = loader.batch_size
        spec = Batch(*(tf.TensorSpec((size, *part.shape[1:]), part.dtype) for part in self._spec))
        source = _Source(iter(loader), spec, self._task, size)
        hook = _Sums(after)
        self._run(
            source,
            lambda estimator, feed: estimator.evaluate(
                feed, hooks=[hook], checkpoint_path=self._path
            ),
        )
        return hook.images, hook.sums

    def _run(self, source: Any, go: Callable[[Any, Any], Any]) -> None:
        folder = tempfile.mkdtemp(prefix="pretexture-")
        try:
            config = tf.estimator.RunConfig(
                model_dir=folder,
                save_summary_steps=None,
                save_checkpoints_steps=None,
                save_checkpoints_secs=None,
                log_step_count_steps=None,
            )
            estimator = tf.estimator.Estimator(self._model_fn, config=config)
            go(estimator, lambda: dataset(source).map(_features_and_label))
        except tf.errors.OpError:
            if source.error is not None:  # which TensorFlow's words would bury
                raise source.error from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _model(self) -> Any:
        scope = Scope(self._task.scope, self._seed)
        image = self._spec.image.shape[-3:]
        return self._task.model(self._recipe, scope, image, tf.float32), scope

    def _model_fn(self, features: Mapping[str, tf.Tensor], labels: tf.Tensor, mode: str) -> Any:
        batch = Batch(features["image"], labels, features["index"])
        model, scope = self._model()
        step = v1.train.get_or_create_global_step()
        variables = {**scope.variables, "global_step": step}
        if mode == tf.estimator.ModeKeys.EVAL:
            checkpoints.check(str(self._path), variables)
            values = self._task.loss(model, batch, training=False)
            counted = batch.index >= 0
            sums = {}
            for name, value in values.items():
                total = tf.reduce_sum(tf.where(counted, value, tf.zeros_like(value)))
                sums[name] = total
            v1.add_to_collection(_FETCHES, (tf.reduce_sum(tf.cast(counted, tf.int32)), sums))
            return tf.estimator.EstimatorSpec(
                mode,
                loss=tf.reduce_mean(values["loss"]),
                scaffold=v1.train.Scaffold(saver=v1.train.Saver(variables)),
            )
        trained = {name: v for name, v in scope.variables.items() if v.trainable}
        total, train_op, state, values = self._train(model, batch, step, trained)
        state = {**variables, **state}
        saver = v1.train.Saver(state)
        if self._path is not None:
            checkpoints.check(self._path, state)
        v1.add_to_collection(_STATE, {name: v.read_value() for name, v in state.items()})
        v1.add_to_collection(_FETCHES, (train_op, values, batch.image))
        return tf.estimator.EstimatorSpec(
            mode,
            loss=total,
            train_op=train_op,
            scaffold=v1.train.Scaffold(
                saver=saver, init_fn=lambda scaffold, session: self._restore(saver, session)
            ),
        )

    def _train(
        self, model: Model, batch: Batch, step: tf.Variable, trained: Mapping[str, tf.Variable]
    ) -> Any:
        """The loss, the operation that makes a step, the optimiser's variables, the metrics."""
        before = step.read_value()
        optimizer = optimization.optimizer(self._recipe, self._rate, before)
        key = tf.stack([self._seed, tf.cast(before, tf.int32)])
        total, values = objective(self._task, model, batch, key)
        values = {**values, "lr": self._rate(before)}
        gradients = tf.gradients(total, list(trained.values()))
        done = [optimizer.apply_gradients(zip(gradients, trained.values()))]
        done += v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies([*done, *values.values()]):
            made = step.assign_add(1)
        return total, tf.identity(made), optimization.state(optimizer, trained), values

    def _restore(self, saver: Any, session: Any) -> None:
        if self._path is None:
            return
        try:
            saver.restore(session, self._path)
        except (tf.errors.OpError, ValueError) as error:
            raise checkpoints.CheckpointError(f"{self._path} is damaged: {error}") from error

    def _initial(self) -> Dict[str, np.ndarray]:
        """The state before the first step."""
        with tf.Graph().as_default():
            batch = Batch(*(v1.placeholder(part.dtype, part.shape) for part in self._spec))
            spec = self._model_fn(*_features_and_label(batch), tf.estimator.ModeKeys.TRAIN)
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                spec.scaffold.init_fn(session)
                return session.run(v1.get_collection(_STATE)[0])


def _features_and_label(batch: Any) -> Tuple[Dict[str, tf.Tensor], tf.Tensor]:
    """A batch as an Estimator takes it."""
    return {"image": batch.image, "index": batch.index}, batch.label


# Collections in which a graph hands its tensors to the hooks.
_FETCHES = "pretexture_fetches"
_STATE = "pretexture_state"


class _Source:
    """Batches as `pretexture.loader.tensorflow.dataset` takes them, checked and padded.

    Attributes:
        element_spec: of a batch.
        waited: seconds for batches, in all.
        error: what ended the iteration.
    """

    def __init__(self, batches: Iterator[Any], spec: Any, task: Task, size: Optional[int] = None):
        self.element_spec = spec
        self.waited = 0.0
        self.error: Optional[Exception] = None
        self._batches = batches
        self._task = task
        self._size = size

    def __iter__(self) -> Iterator[Any]:
        try:
            while True:
                asked = time.monotonic()
                batch = next(self._batches, None)
                self.waited += time.monotonic() - asked
                if batch is None:
                    return
                self._task.check_labels(batch.label, batch.index)
                yield batch if self._size is None else padded(batch, self._size)
        except Exception as error:
            self.error = error
            raise


class _Training(v1.train.SessionRunHook):
    """Tells what each step gave, and hands out the state of the moment."""

    def __init__(self, engine: Engine, source: _Source, after: Any):
        self._engine = engine
        self._source = source
        self._after = after
        self._waited = 0.0

    def begin(self) -> None:
        (self._fetches,) = v1.get_collection(_FETCHES)
        (self._state,) = v1.get_collection(_STATE)

    def before_run(self, run_context: Any) -> Any:
        step, values, image = self._fetches
        fetches = {"step": step, "values": values}
        if self._after.shows(self._engine.step + 1):
            fetches["image"] = image
        return v1.train.SessionRunArgs(fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        results = run_values.results
        engine, session = self._engine, run_context.session
        engine._made = int(results["step"])
        engine._values = lambda: session.run(self._state)
        values = {name: float(value) for name, value in results["values"].items()}
        waited, self._waited = self._source.waited - self._waited, self._source.waited
        if not self._after(engine.step, values, waited, results.get("image")):
            run_context.request_stop()

    def end(self, session: Any) -> None:
        values = session.run(self._state)
        self._engine._values = lambda: values


class _Sums(v1.train.SessionRunHook):
    """Adds up what each batch gives."""

    def __init__(self, after: Callable[[int, int], None]):
        self.images = 0
        self.sums: Dict[str, float] = {}
        self._after = after
        self._batches = 0

    def begin(self) -> None:
        (self._fetches,) = v1.get_collection(_FETCHES)

    def before_run(self, run_context: Any) -> Any:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        counted, sums = run_values.results
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.images += int(counted)
        self._batches += 1
        self._after(self._batches, self.images)
