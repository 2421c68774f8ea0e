"""Steps in the sessions of an Estimator: TensorFlow 1.15 on CPU, GPU and, by `npu_bridge`, on NPU.

The Estimator owns the loop; the report, checkpoints and the end of a run are a session hook, and
the loader's batches come through `tf.data`. Checkpoints are not the Estimator's but those of
`..checkpoints`, so that its folder is a passing one and a run goes on in either engine.
"""

import collections
import dataclasses
import shutil
import tempfile
import time
from typing import Any, Callable, Deque, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.console.interrupt import Interrupt
from pretexture.loader.tensorflow import dataset

from ..networks.layers import Scope
from ..recipes import Recipe
from ..runs import checkpoints
from ..runs.skipped import each_once
from ..tasks.task import Batch, Model, Task, objective
from . import ascend, optimization, sessions
from .batches import endless, padded
from .devices import choose_gpus, cluster
from .meeting import together
from .npu_options import DEFAULTS, NpuOptions

v1: Any = tf.compat.v1


@dataclasses.dataclass(frozen=True)
class OneDevice:
    """Where steps are made: one device of this process.

    Attributes:
        words: the device, for people.
        worker, workers: which process this one is, and of how many.
        replicas: of this process.
        bridge: the plugin `npu_bridge.npu_init`; None for CPU and GPU.
        npu: how an NPU runs.
    """

    words: str = "CPU"
    worker: int = 0
    workers: int = 1
    replicas: int = 1
    bridge: Any = None
    npu: NpuOptions = DEFAULTS

    @property
    def loop(self) -> int:
        """Steps between two looks of the host."""
        return self.npu.iterations_per_loop if self.bridge else 1


def open_device(name: str, devices: int = 1, npu: NpuOptions = DEFAULTS) -> OneDevice:
    """Chooses where steps are made; to be called before anything else of TensorFlow.

    With RANK_ID and RANK_SIZE (NPU) this process is one of several.

    Args:
        name: "auto" takes a GPU where there is one; "cpu", "gpu" or "npu".
        devices: of this process; 1.
        npu: how an NPU is to run.

    Raises: ValueError where there is no such device, ImportError where its plugin is missing.
    """
    v1.logging.set_verbosity(v1.logging.ERROR)
    if devices != 1:
        raise ValueError(
            f"--devices {devices}: on TensorFlow {tf.__version__} a process has one device; "
            f"scripts/launch.py starts several processes on NPUs"
        )
    if name == "npu":
        bridge = ascend.plugin("npu_bridge.npu_init")
        ascend.job_environment()
        ascend.make_folders(npu)
        rank, ranks = ascend.ranks()
        words = f"Ascend NPU, {npu.precision_mode}"
        return OneDevice(words, rank, ranks, bridge=bridge, npu=npu)
    if cluster().workers > 1:
        raise ValueError(
            f"TF_CONFIG names several workers: on CPU and GPU that needs TensorFlow 2.6 or later, "
            f"and this is {tf.__version__}"
        )
    gpus = choose_gpus(name, 1)
    return OneDevice(gpus[0].name if gpus else "CPU")


class Engine:
    """A model and how to train and evaluate it; as `tf2.Engine`, which see."""

    counts_all = False

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        spec: Any,
        steps_per_epoch: int,
        seed: int,
        place: Optional[OneDevice] = None,
    ):
        if recipe.precision != "float32":
            raise ValueError(
                f"precision {recipe.precision}: TensorFlow {tf.__version__} computes in float32; "
                f"use --precision float32 (what an NPU computes in, --precision-mode says)"
            )
        self._recipe = recipe
        self._task = task
        self._spec = spec
        self._seed = seed
        self._place = place or OneDevice()
        self._rate = optimization.schedule(recipe, steps_per_epoch)
        self._path: Optional[str] = None  # of the checkpoint to start from
        self._made = 0
        self._values: Callable[[], Dict[str, np.ndarray]] = self._initial
        with tf.Graph().as_default():
            _, scope = self._model()
            trained = [v for v in scope.variables.values() if v.trainable]
        self.parameters = sum(int(np.prod(v.shape.as_list())) for v in trained)

    def start(self) -> None:
        """Nothing: `NPUEstimator` gives ranks the first one's trained variables when it begins."""

    def wait(self) -> None:
        """Nothing: ranks wait for one another within steps only."""

    @property
    def step(self) -> int:
        """How many steps the model has been trained for."""
        return self._made

    def state(self) -> Mapping[str, np.ndarray]:
        """The values of the variables by name: model, optimiser and step; of the first worker."""
        return self._values() if self._place.worker == 0 else {}

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

    def fit(
        self, loader: Any, steps: int, after: Any, interrupt: Optional[Interrupt] = None
    ) -> None:
        """Trains until so many steps have been made in all; see `tf2.Engine.fit`.

        A device that loops makes several steps between two calls of `after`. Of several workers
        only the first one's wishes count; the others end with it.
        """
        interrupt = interrupt or Interrupt()
        loop = self._place.loop
        whole = self._made + max(0, steps - self._made) // loop * loop
        if self._made < whole and not self._train_until(loader, whole, loop, after, interrupt):
            return
        if self._made < steps:
            with tempfile.TemporaryDirectory(prefix="pretexture-") as folder:
                if whole and loop > 1:  # steps that are left over; the loop took batches ahead
                    state = self.loader_state(loader)
                    self._path = checkpoints.Checkpoints(folder).save(whole, self.state(), state)
                    loader.load_state_dict(state)
                self._train_until(loader, steps, 1, after, interrupt)

    def _train_until(
        self, loader: Any, steps: int, loop: int, after: Any, interrupt: Interrupt
    ) -> bool:
        """Trains in loops of `loop` steps; returns False if that was ended early."""
        batches = interrupt.awaited(endless(loader))
        source = _Source(batches, loader.element_spec, self._task)
        hook = _Training(self, source, after, loop)
        self._run(source, loop, lambda e, feed: e.train(feed, hooks=[hook], max_steps=steps))
        return not (hook.stopped or interrupt.closed)

    def measure(
        self, loader: Any, after: Callable[[int, int], None]
    ) -> Tuple[int, Dict[str, float]]:
        """Counts a loader's images and adds up loss and metrics; see `tf2.Engine.measure`."""
        size = loader.batch_size
        spec = Batch(*(tf.TensorSpec((size, *part.shape[1:]), part.dtype) for part in self._spec))
        source = _Source(((batch, 0) for batch in each_once(loader)), spec, self._task, size)
        hook = _Sums(after)
        self._run(
            source,
            1,
            lambda estimator, feed: estimator.evaluate(
                feed, hooks=[hook], checkpoint_path=self._path
            ),
        )
        return hook.images, hook.sums

    def _run(self, source: Any, loop: int, go: Callable[[Any, Any], Any]) -> None:
        folder = tempfile.mkdtemp(prefix="pretexture-")
        try:
            with together(self._place.workers):
                go(
                    self._estimator(folder, loop),
                    lambda: dataset(source, index=True).map(_features_and_label),
                )
        except (tf.errors.OpError, ConnectionError):
            if source.error is not None:  # which TensorFlow's words would bury
                raise source.error from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _estimator(self, folder: str, loop: int) -> Any:
        place = self._place
        if place.bridge:
            options = dataclasses.replace(place.npu, iterations_per_loop=loop)
            config = ascend.run_config(place.bridge, options, folder, place.workers > 1)
            return place.bridge.NPUEstimator(self._model_fn, config=config)
        config = tf.estimator.RunConfig(
            model_dir=folder,
            save_summary_steps=None,
            save_checkpoints_steps=None,
            save_checkpoints_secs=None,
            log_step_count_steps=None,
        )
        return tf.estimator.Estimator(self._model_fn, config=config)

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
        total, train_op, optimizer_state, values = self._train(model, batch, step, trained)
        state = {**variables, **optimizer_state}
        found = {v.op.name: v for v in v1.global_variables()}
        scale = {name: found[name] for name in ("loss_scale", "good_steps") if name in found}
        restored = state
        if self._path is not None:
            restored = {**state, **checkpoints.present(self._path, scale)}
            checkpoints.check(self._path, restored)
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
        place = self._place
        before = step.read_value()
        own = optimizer = optimization.optimizer(self._recipe, self._rate, before)
        key = tf.stack([self._seed, tf.cast(before, tf.int32), place.worker])
        total, values = objective(self._task, model, batch, key)
        values = {**values, "lr": self._rate(before)}
        if place.bridge:
            optimizer, scale = ascend.bridge_optimizer(
                place.bridge, optimizer, self._recipe, place.npu, place.workers > 1
            )
            if scale is not None:
                # Not the variable's own memory, which the step changes, but a product.
                values["loss_scale"] = scale * tf.cast(before >= 0, tf.float32)
        steps = optimizer.compute_gradients(total, list(trained.values()))
        # Metrics are of before the step, the scale included.
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
            batch = {
                name: v1.placeholder(part.dtype, part.shape)
                for name, part in self._spec._asdict().items()
            }
            spec = self._model_fn(*_features_and_label(batch), tf.estimator.ModeKeys.TRAIN)
            with sessions.on_host() as session:
                session.run(v1.global_variables_initializer())
                spec.scaffold.init_fn(session)
                return session.run(v1.get_collection(_STATE)[0])


def _features_and_label(batch: Any) -> Tuple[Dict[str, tf.Tensor], tf.Tensor]:
    """A batch as an Estimator takes it."""
    return {"image": batch["image"], "index": batch["index"]}, batch["label"]


# Collections in which a graph hands its tensors to the hooks.
_FETCHES = "pretexture_fetches"
_STATE = "pretexture_state"


class _Source:
    """Batches as `pretexture.loader.tensorflow.dataset` takes them, checked and padded.

    Attributes:
        element_spec: of a batch.
        waited: seconds for batches, in all.
        skipped: of each batch that no step has taken yet, how many of its records are replacements.
        error: what ended the iteration.
    """

    def __init__(
        self,
        batches: Iterator[Tuple[Any, int]],
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
            while True:
                asked = time.monotonic()
                batch, skipped = next(self._batches, (None, 0))
                self.waited += time.monotonic() - asked
                if batch is None:
                    return
                self.skipped.append(skipped)
                self._task.check_labels(batch.label, batch.index)
                yield batch if self._size is None else padded(batch, self._size)
        except Exception as error:
            self.error = error
            raise


class _Training(v1.train.SessionRunHook):
    """Tells what each step gave, and hands out the state of the moment.

    Args:
        engine, source, after: see `Engine.fit`.
        loop: steps of a session's call; the last one's metrics are told.

    Attributes:
        stopped: whether `after` ended the training.
    """

    def __init__(self, engine: Engine, source: _Source, after: Any, loop: int):
        self.stopped = False
        self._engine = engine
        self._source = source
        self._after = after
        self._loop = loop
        self._waited = 0.0

    def begin(self) -> None:
        (self._fetches,) = v1.get_collection(_FETCHES)
        (self._state,) = v1.get_collection(_STATE)

    def before_run(self, run_context: Any) -> Any:
        step, values, image = self._fetches
        fetches = {"step": step, "values": values}
        if self._after.shows(self._engine.step + self._loop):
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
        agreed = None if engine._place.worker == 0 else (False, False)
        if not self._after(engine.step, values, waited, results.get("image"), skipped, agreed):
            self.stopped = True
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
