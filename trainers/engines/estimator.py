"""Steps in the sessions of an Estimator: TensorFlow 1.15 on CPU, GPU and, by `npu_bridge`, on NPU.

The Estimator owns the loop. A session hook tells the follower of each step, and the loader's
batches come through `tf.data`. The Estimator's own folder is temporary: checkpoints are those of
`..runs.checkpoints`, so that either engine can resume a run.
"""

import collections
import dataclasses
import shutil
import tempfile
from typing import Any, Callable, Deque, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.console.interrupt import Interrupt
from pretexture.loader.tensorflow import dataset

from ..networks.layers import Scope
from ..runs import checkpoints
from ..runs.skipped import each_once
from ..tasks.task import Batch, Model, Task, objective
from . import ascend, engine, optimization, sessions
from .devices import choose_gpus, cluster
from .engine import Place, StepResult, Sums, Wishes, awaited, counted_sums, padded
from .meeting import together
from .npu_options import DEFAULTS, NpuOptions

v1: Any = tf.compat.v1


class BridgeNpu(Place):
    """One NPU for each process.

    Args:
        bridge: the plugin `npu_bridge.npu_init`.
        options: how the NPU runs.
        worker, workers: see `Place`.
    """

    def __init__(self, bridge: Any, options: NpuOptions, worker: int = 0, workers: int = 1):
        super().__init__(f"Ascend NPU, {options.precision_mode}", worker, workers)
        self.bridge = bridge
        self.options = options


def open_device(name: str, devices: int = 1, npu: NpuOptions = DEFAULTS) -> Place:
    """Chooses where steps run; see `tf2.open_device`. Only NPUs can be several, one a process."""
    v1.logging.set_verbosity(v1.logging.ERROR)
    if devices != 1:
        raise ValueError(
            f"--devices {devices}: on TensorFlow {tf.__version__} a process has one device; "
            f"pretexture launch starts several processes on NPUs"
        )
    if name == "npu":
        bridge = ascend.plugin("npu_bridge.npu_init")
        ascend.job_environment()
        ascend.make_folders(npu)
        return BridgeNpu(bridge, npu, *ascend.ranks())
    if cluster().workers > 1:
        raise ValueError(
            f"TF_CONFIG names several workers: on CPU and GPU that needs TensorFlow 2.6 or later, "
            f"but this is {tf.__version__}"
        )
    gpus = choose_gpus(name, 1)
    return Place(gpus[0].name if gpus else "CPU")


class Engine(engine.Engine):
    """Builds a graph for each call of `fit` and `measure`.

    Ranks (TensorFlow 1.15's name for workers) cannot exchange wishes: the first one's count, and
    the others end with the error of the first step that it no longer takes part in. The plugin
    gives all ranks the first one's trained variables at the start, so `start` does nothing; ranks
    wait for one another within steps only, so neither does `wait`.
    """

    counts_all = False

    def _build(self) -> Scope:
        precision = self._recipe.precision
        if precision != "float32":
            raise ValueError(
                f"precision {precision}: TensorFlow {tf.__version__} computes in float32; "
                f"use --precision float32 (for an NPU, --precision-mode chooses the type)"
            )
        self._npu = self.place if isinstance(self.place, BridgeNpu) else None
        self._path: Optional[str] = None  # of the checkpoint to start from
        self._made = 0
        self._values: Callable[[], Dict[str, np.ndarray]] = self._initial
        with tf.Graph().as_default():
            return self._model()[1]

    @property
    def step(self) -> int:
        return self._made

    def state(self) -> Mapping[str, np.ndarray]:
        return self._values() if self.place.worker == 0 else {}

    def loader_state(self, loader: engine.Batches) -> Dict[str, Any]:
        # `tf.data` may have taken more batches than steps were made.
        epoch, batch = divmod(self._made, len(loader))
        return {**loader.state_dict(), "epoch": epoch, "batch": batch}

    def restore(self, path: str) -> Dict[str, Any]:
        self.restore_model(path)
        return checkpoints.read(path, ["global_step"])[1]

    def restore_model(self, path: str) -> None:
        values, _ = checkpoints.read(path, ["global_step"])
        self._path, self._made = path, int(values["global_step"])

    def step_graph(self) -> tf.Graph:
        graph = tf.Graph()
        with graph.as_default():
            self._training_spec()
        return graph

    def fit(
        self,
        loader: engine.Batches,
        steps: int,
        follower: engine.Follower,
        interrupt: Interrupt,
    ) -> None:
        loop = self._npu.options.iterations_per_loop if self._npu else 1
        whole = self._made + max(0, steps - self._made) // loop * loop
        if self._made < whole and not self._train_until(loader, whole, loop, follower, interrupt):
            return
        if self._made < steps:
            with tempfile.TemporaryDirectory(prefix="pretexture-") as folder:
                if whole and loop > 1:  # the loop took batches that belong to the steps left over
                    state = self.loader_state(loader)
                    self._path = checkpoints.Checkpoints(folder).save(whole, self.state(), state)
                    loader.load_state_dict(state)
                self._train_until(loader, steps, 1, follower, interrupt)

    def _train_until(
        self,
        loader: engine.Batches,
        steps: int,
        loop: int,
        follower: engine.Follower,
        interrupt: Interrupt,
    ) -> bool:
        """Trains in loops of `loop` steps; returns False if the training ended early."""
        source = _Source(awaited(loader, interrupt), loader.element_spec, self._task)
        hook = _Training(self, source, follower, loop)
        self._run(source, loop, lambda e, feed: e.train(feed, hooks=[hook], max_steps=steps))
        return not (hook.stopped or interrupt.closed)

    def measure(self, loader: engine.Batches, after: Any) -> Tuple[int, Dict[str, float]]:
        size = loader.batch_size
        spec = Batch(*(tf.TensorSpec((size, *part.shape[1:]), part.dtype) for part in self._spec))
        source = _Source(((batch, 0, 0.0) for batch in each_once(loader)), spec, self._task, size)
        total = Sums(after)
        self._run(
            source,
            1,
            lambda estimator, feed: estimator.evaluate(
                feed, hooks=[_Measuring(total, self._made)], checkpoint_path=self._path
            ),
        )
        return total.images, total.sums

    def _run(self, source: Any, loop: int, go: Callable[[Any, Any], Any]) -> None:
        folder = tempfile.mkdtemp(prefix="pretexture-")
        try:
            with together(self.place.workers):
                go(
                    self._estimator(folder, loop),
                    lambda: dataset(source, index=True).map(_features_and_label),
                )
        except (tf.errors.OpError, ConnectionError):
            if source.error is not None:  # TensorFlow's message would hide it
                raise source.error from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _estimator(self, folder: str, loop: int) -> Any:
        npu = self._npu
        if npu:
            options = dataclasses.replace(npu.options, iterations_per_loop=loop)
            config = ascend.run_config(npu.bridge, options, folder, npu.workers > 1)
            return npu.bridge.NPUEstimator(self._model_fn, config=config)
        config = tf.estimator.RunConfig(
            model_dir=folder,
            save_summary_steps=None,
            save_checkpoints_steps=None,
            save_checkpoints_secs=None,
            log_step_count_steps=None,
        )
        return tf.estimator.Estimator(self._model_fn, config=config)

    def _model(self) -> Tuple[Model, Scope]:
        scope = Scope(self._task.scope, self._seed)
        return self._model_in(scope, tf.float32), scope

    def _model_fn(self, features: Mapping[str, tf.Tensor], labels: tf.Tensor, mode: str) -> Any:
        batch = Batch(features["image"], labels, features["index"])
        model, scope = self._model()
        step = v1.train.get_or_create_global_step()
        variables = {**scope.variables, "global_step": step}
        if mode == tf.estimator.ModeKeys.EVAL:
            checkpoints.fitting(str(self._path), variables)
            values = self._task.loss(model, batch, training=False)
            averages = [(scope.variables[name], part) for name, part in scope.averages.items()]
            v1.add_to_collection(_AVERAGES, averages)
            images = tf.reduce_sum(tf.cast(batch.index >= 0, tf.int32))
            v1.add_to_collection(_FETCHES, (images, counted_sums(values, batch.index)))
            return tf.estimator.EstimatorSpec(
                mode,
                loss=tf.reduce_mean(values["loss"]),
                scaffold=v1.train.Scaffold(saver=v1.train.Saver(variables)),
            )
        total, train_op, optimizer_state, values = self._train(model, batch, step, scope.trained)
        state = {**variables, **optimizer_state}
        found = {v.op.name: v for v in v1.global_variables()}
        scale = {name: found[name] for name in ("loss_scale", "good_steps") if name in found}
        restored = state
        if self._path is not None:
            restored = checkpoints.fitting(self._path, state, scale)
        saver = v1.train.Saver(restored)
        read = {name: tf.identity(v) for name, v in {**state, **scale}.items()}
        v1.add_to_collection(_STATE, read)
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
        npu = self._npu
        before = step.read_value()
        own = optimizer = optimization.optimizer(self._recipe, self._rate, before)
        key = tf.stack([self._seed, tf.cast(before, tf.int32), self.place.replica()])
        total, values = objective(self._task, model, batch, key)
        values = {**values, "lr": self._rate(before)}
        if npu:
            optimizer, scale = ascend.bridge_optimizer(
                npu.bridge, optimizer, self._recipe, npu.options, npu.workers > 1
            )
            if scale is not None:
                # A product has memory of its own, while the step changes the variable's.
                values["loss_scale"] = scale * tf.cast(before >= 0, tf.float32)
        steps = optimizer.compute_gradients(total, list(trained.values()))
        # Metrics, and the scale among them, are those before the step.
        with tf.control_dependencies(list(values.values())):
            applied = optimizer.apply_gradients(steps)
        done = [applied, *v1.get_collection(v1.GraphKeys.UPDATE_OPS)]
        with tf.control_dependencies([*done, *values.values()]):
            made = step.assign_add(1)
        return total, tf.identity(made), optimization.state(own, trained), values

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
            spec = self._training_spec()
            with sessions.on_host() as session:
                session.run(v1.global_variables_initializer())
                spec.scaffold.init_fn(session)
                return session.run(v1.get_collection(_STATE)[0])

    def _training_spec(self) -> Any:
        """A training step in the default graph."""
        batch = {
            name: v1.placeholder(part.dtype, part.shape)
            for name, part in self._spec._asdict().items()
        }
        return self._model_fn(*_features_and_label(batch), tf.estimator.ModeKeys.TRAIN)


def _features_and_label(batch: Any) -> Tuple[Dict[str, tf.Tensor], tf.Tensor]:
    """A batch as an Estimator takes it."""
    return {"image": batch["image"], "index": batch["index"]}, batch["label"]


# Names of the collections in which a graph passes its tensors to the hooks.
_FETCHES = "pretexture_fetches"
_STATE = "pretexture_state"
_AVERAGES = "pretexture_averages"


class _Source:
    """Batches as `pretexture.loader.tensorflow.dataset` takes them, checked and padded.

    Args:
        batches: see `awaited`.
        spec: shapes and types of a batch.
        task: checks the labels.
        size: number of images to which batches are padded; None for no padding.

    Attributes:
        element_spec: see `spec`.
        waited: seconds spent waiting for batches so far.
        skipped: numbers of replaced records in the batches that no step has taken yet.
        error: the error that ended the iteration.
    """

    def __init__(
        self,
        batches: Iterator[Tuple[Any, int, float]],
        spec: Any,
        task: Task,
        size: Optional[int] = None,
    ):
        self.element_spec = spec
        self.waited = 0.0
        self.skipped: Deque[int] = collections.deque()
        self.error: Optional[Exception] = None
        self._batches = batches
        self._task = task
        self._size = size

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch, skipped, waited in self._batches:
                self.waited += waited
                self.skipped.append(skipped)
                self._task.check_labels(batch.label, batch.index)
                yield batch if self._size is None else padded(batch, self._size)
        except Exception as error:
            self.error = error
            raise


class _Training(v1.train.SessionRunHook):
    """Tells a follower what each step gave, and gives the engine the state after it.

    Args:
        engine: the engine that trains.
        source: the batches.
        follower: is told of each call of the session.
        loop: number of steps that a call makes; the last one's metrics are told.

    Attributes:
        stopped: whether the follower ended the training.
    """

    def __init__(self, engine: Engine, source: _Source, follower: engine.Follower, loop: int):
        self.stopped = False
        self._engine = engine
        self._source = source
        self._follower = follower
        self._loop = loop
        self._waited = 0.0

    def begin(self) -> None:
        (self._fetches,) = v1.get_collection(_FETCHES)
        (self._state,) = v1.get_collection(_STATE)

    def before_run(self, run_context: Any) -> Any:
        step, values, image = self._fetches
        fetches = {"step": step, "values": values}
        if self._follower.shows(self._engine.step + self._loop):
            fetches["image"] = image
        return v1.train.SessionRunArgs(fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        results = run_values.results
        engine, session = self._engine, run_context.session
        steps = int(results["step"]) - engine.step
        engine._made += steps
        engine._values = lambda: session.run(self._state)
        values = {name: float(value) for name, value in results["values"].items()}
        waited, self._waited = self._source.waited - self._waited, self._source.waited
        skipped = sum(self._source.skipped.popleft() for _ in range(steps))
        agreed = self._follower.wishes() if engine.place.worker == 0 else Wishes()
        image = results.get("image")
        if not self._follower.after(
            StepResult(engine.step, values, agreed, waited, skipped, image)
        ):
            self.stopped = True
            run_context.request_stop()

    def end(self, session: Any) -> None:
        values = session.run(self._state)
        self._engine._values = lambda: values


class _Measuring(v1.train.SessionRunHook):
    """Unbiases the running averages of so many steps, then adds up what each batch gives."""

    def __init__(self, total: Sums, steps: int):
        self._total = total
        self._steps = steps

    def begin(self) -> None:
        (self._fetches,) = v1.get_collection(_FETCHES)
        (self._averages,) = v1.get_collection(_AVERAGES)

    def after_create_session(self, session: Any, coord: Any) -> None:
        for variable, average in self._averages:
            value = average.unbiased(session.run(variable), self._steps)
            sessions.assign(session, variable, value)

    def before_run(self, run_context: Any) -> Any:
        return v1.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        self._total.add(*run_values.results)
