"""A pretraining run, from its recipe to its last checkpoint."""

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import sys
import time
from typing import Any, Callable, Dict, Iterator, Mapping, Optional

import tensorflow as tf
from pretexture.loader import Loader, Pipeline, Records, imagenet
from pretexture.loader.console.files import is_full, write_bytes
from pretexture.loader.console.interrupt import Interrupt
from pretexture.loader.console.paths import make_parent
from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, FEATURES, RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage, is_url

from . import engines, tasks
from .engines.engine import Batches, Engine, Follower, Place, StepResult, Wishes
from .engines.memory import live_bytes
from .engines.npu_options import DEFAULTS, NpuOptions
from .recipes import Recipe
from .runs import tracking
from .runs.checkpoints import Checkpoints
from .runs.events import png, view_grid
from .runs.folder import Config, check_config, keep_name, run_name, write_config
from .runs.mirror import Workdir, absolute, open_workdir
from .runs.report import Hook, Report, memory_words, passes, plan, result, skipped_words
from .transfer.knn import Monitor


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run needs to know besides its recipe.

    Attributes:
        data: folder of train-*-of-* and validation-*-of-* shards; a path or a URL.
        workdir: the run's folder, a path or a URL. A run that it holds is resumed. At a URL it is
            uploaded after every checkpoint.
        storage: how URLs are reached and where copies are kept.
        records: how records are read, and what happens to those that cannot be used.
        steps: total number of training steps; None for the recipe's epochs, 0 for a network that is
            not trained.
        seed: random seed of the initial weights, the order of images and every draw; 31 bits.
        threads: number of the loader's threads; None for one per core.
        device: "auto", "cpu", "gpu" or "npu".
        devices: number of this process's devices, which share each batch.
        npu: how an NPU runs.
        checkpoint_seconds: seconds between two checkpoints.
        checkpoint_steps: steps between two checkpoints; None to go by seconds.
        log_steps: steps between two lines of metrics.
        view_steps: steps between two grids of views in TensorBoard; the first shows the first step.
        knn_epochs: epochs between two evaluations by nearest neighbours, see
            `transfer.knn.Monitor`; None for no evaluation.
        name: name of the run; None for the one it has, or else for its folder's name.
        track: "wandb" or "mlflow", which is handed each line of metrics; see `runs.tracking`.
    """

    data: str
    workdir: str
    storage: Storage = DEFAULT_STORAGE
    records: RecordOptions = DEFAULT_RECORDS
    steps: Optional[int] = None
    seed: int = 0
    threads: Optional[int] = None
    device: str = "auto"
    devices: int = 1
    npu: NpuOptions = DEFAULTS
    checkpoint_seconds: float = 600.0
    checkpoint_steps: Optional[int] = None
    log_steps: int = 10
    view_steps: int = 1000
    knn_epochs: Optional[int] = None
    name: Optional[str] = None
    track: Optional[str] = None

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: number of the last step.
        total: total number of steps of the run.
        interrupted: number of the signal that ended the run early; None if none did.
        chief: whether this is the process that wrote the results.
        connected: see `Place.connected`.
    """

    step: int
    total: int
    interrupted: Optional[int]
    chief: bool
    connected: bool


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What `fit` trains: a model, and the batches that it is trained on.

    Attributes:
        recipe: what is trained and how.
        options: on which data, where to, and for how long.
        engine: the model. Of several workers only the first writes and says anything.
        loader: gives the batches; it is closed at the end.
        records: records of the training split.
        module: the export that linear evaluation is about; empty for pretraining.
        weights: digest of its weights; empty for pretraining.
        monitor: evaluates the model by nearest neighbours every `options.knn_epochs`; or None.
    """

    recipe: Recipe
    options: Options
    engine: Engine
    loader: Batches
    records: Records
    module: str = ""
    weights: str = ""
    monitor: Optional[Monitor] = None

    @property
    def config(self) -> Config:
        """What `config.json` says of the run."""
        options, epoch = self.options, len(self.loader)
        return Config(
            recipe=self.recipe,
            seed=options.seed,
            records=self.loader.num_records,
            steps_per_epoch=epoch,
            steps=math.ceil(self.recipe.epochs * epoch) if options.steps is None else options.steps,
            parameters=self.engine.parameters,
            data=redacted(absolute(options.data)),
            tensorflow=tf.__version__,
            module=redacted(self.module),
            weights=self.weights,
            name=options.name or "",
            **{name: self.records.features.get(name) for name in FEATURES},
        )


def pretrain(
    recipe: Recipe,
    options: Options,
    say: Callable[[str], None] = print,
    workdir: Optional[Workdir] = None,
    hook: Hook = lambda line: None,
) -> Outcome:
    """Trains by a recipe, from the start or from the newest checkpoint in the workdir.

    Args:
        recipe: what to train and how.
        options: on which data, where to, and for how long.
        say: function that is told, line by line, what the run will do and what it did.
        workdir: the run's folder, which is opened here; default: that of `options.workdir`.
        hook: function that is handed each line of metrics, a dict, when it has been written to
            `metrics.jsonl`. Of several workers, only the first calls it.

    Raises: ValueError (also as PipelineError, RecordError, WorkdirError, CheckpointError), OSError
        and DivergedError, whose messages say what to change.
    """
    training = _build(recipe, options)
    worker = training.engine.place.worker
    with workdir or open_workdir(options.workdir, options.storage, "train", worker) as opened:
        return fit(training, opened, say, hook)


def dry_run(
    recipe: Recipe,
    options: Options,
    picture: Optional[str] = None,
    say: Callable[[str], None] = print,
) -> str:
    """Says what `pretrain` would do, and draws the views of its first batch, without training.

    Args:
        recipe, options: as for `pretrain`.
        picture: path of a PNG file for the views of a few images; None for `views.png` in the
            workdir, or in the current folder if the workdir is at a URL.
        say: function that is told the plan, line by line.

    Returns: the path of the picture.

    Raises: as `pretrain`.
    """
    engines.require_one_process("a dry run")
    training = _build(recipe, options)
    config, engine, step = training.config, training.engine, 0
    if not is_url(options.workdir):
        checkpoints = Checkpoints(options.workdir)
        if checkpoints.latest:
            check_config(options.workdir, config)
            step = checkpoints.steps[-1]
    with training.loader as loader:
        batch = next(iter(loader))
    data, storage = options.data, options.storage
    for line in plan(config, data, options.workdir, storage, engine.place.words, step):
        say(printable(line))
    say(f"memory    {memory_words(config, live_bytes(engine.step_graph()))}")
    inside = "" if is_url(options.workdir) else options.workdir
    path = make_parent(picture or os.path.join(inside, "views.png"))
    write_bytes(path, png(view_grid(batch.image)))
    say(printable(f"picture   {path}: views of the first batch"))
    say("this was a dry run: nothing was trained")
    return path


def _build(recipe: Recipe, options: Options) -> Training:
    """Opens the device and the data, and builds the model. Raises as `pretrain`."""
    backend = engines.choose()
    place = backend.open_device(options.device, options.devices, options.npu)
    task = tasks.build(recipe)
    pipeline = Pipeline(recipe.pipeline)
    task.check(pipeline)
    if recipe.eval_pipeline:
        task.check(Pipeline(recipe.eval_pipeline))
    records = imagenet(
        options.data, recipe.train_split, **vars(options.storage), **options.records.features
    )
    check_batch(recipe, len(records.shard_index(options.records.on_error).offsets))
    loader = Loader(
        records,
        pipeline,
        share(recipe.batch_size, place),
        training=True,
        seed=options.seed,
        shard=(place.worker, place.workers),
        threads=options.threads,
        dct=recipe.dct,
        **options.records.loading,
    )
    engine = backend.Engine(recipe, task, loader.element_spec, len(loader), options.seed, place)
    return Training(recipe, options, engine, loader, records, monitor=_monitor(recipe, options))


def _monitor(recipe: Recipe, options: Options) -> Optional[Monitor]:
    """What evaluates the run while it trains. Raises ValueError if that is impossible."""
    if options.knn_epochs is None:
        return None
    engines.require_one_process("--knn-epochs")
    return Monitor(
        recipe, options.data, options.storage, options.records, options.threads, options.npu
    )


def check_batch(recipe: Recipe, records: int) -> None:
    """Raises ValueError if the training split has too few records for a batch."""
    if records < recipe.batch_size:
        raise ValueError(
            f"the training split {recipe.train_split} has {records:,} records, fewer than "
            f"batch_size {recipe.batch_size}: give a --batch-size of at most {records}"
        )


def share(batch_size: int, place: Place) -> int:
    """A worker's part of a batch. Raises ValueError if the replicas' parts would differ."""
    total = place.workers * place.replicas
    if batch_size % total:
        raise ValueError(
            f"batch_size {batch_size} counts the images of all {total} devices together, and is "
            f"not a multiple of {total}: give another --batch-size"
        )
    return batch_size // place.workers


def fit(
    training: Training,
    workdir: Workdir,
    say: Callable[[str], None],
    hook: Hook = lambda line: None,
) -> Outcome:
    """Trains with checkpoints, a report and an orderly end.

    Args:
        training: what to train.
        workdir: the opened folder of the run.
        say, hook: see `pretrain`.

    Raises: as `pretrain`.
    """
    options, engine, loader = training.options, training.engine, training.loader
    config, folder, place = training.config, workdir.folder, training.engine.place
    chief, several = place.worker == 0, place.workers > 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(_telling_of_a_full_disk(folder))

        # If the first worker's copy of the run is newer than the URL, the others must see it.
        if several:
            if chief:
                workdir.push()
            engine.wait()
            if not chief:
                workdir.pull()

        # Resume from the newest checkpoint.
        checkpoints = Checkpoints(folder)
        if checkpoints.latest:
            check_config(folder, config)
            state = engine.restore(checkpoints.latest)
            own = {"batch_size": loader.batch_size, "shard": list(loader.shard)}
            loader.load_state_dict({**state, **own})
        engine.start()
        first, report = engine.step, None
        if chief:
            config = keep_name(folder, config)
            write_config(folder, config)
            data, storage = options.data, options.storage
            for line in plan(config, data, options.workdir, storage, place.words, first):
                say(printable(line))
            if first < config.steps:
                say("starting  the first step takes longest, because TensorFlow compiles it")

        # Train. A checkpoint takes all workers, so none is saved if one of them is stuck.
        began = time.monotonic()
        stack.enter_context(loader)
        interrupt = stack.enter_context(Interrupt(loader.close, place.workers))
        if chief:
            size, epoch = training.recipe.batch_size, config.steps_per_epoch
            name = run_name(config, options.workdir)
            track = stack.enter_context(tracking.opened(options.track, folder, name, config))

            def tell(line: Dict[str, Any]) -> None:
                track(line)
                hook(line)

            report = Report(folder, first, config.steps, epoch, size, options.log_steps, tell)
            stack.enter_context(report)
        loop = _Loop(training, workdir, checkpoints, report, interrupt)
        try:
            if interrupt.signal is None or several:
                engine.fit(loader, config.steps, loop, interrupt)
        except ConnectionError:
            if interrupt.signal is None:
                raise
            raise KeyboardInterrupt from None  # the others are gone because they were asked, too
        if interrupt.closed and several:
            raise KeyboardInterrupt
        if engine.step < config.steps:
            loop.signal = loop.signal or interrupt.signal
        loop.save()
        engine.wait()

    # Say what the run did.
    outcome = Outcome(engine.step, config.steps, loop.signal, chief, place.connected)
    if chief:
        seconds, steps = time.monotonic() - began, options.log_steps
        last, ended = outcome.step, outcome.interrupted
        for line in result(config, folder, steps, first, last, ended, seconds, loop.waited):
            say(printable(line))
    elif loop.skipped and not engine.counts_all:
        print(f"worker {place.worker}: {skipped_words(loop.skipped)}", file=sys.stderr)
    return outcome


@contextlib.contextmanager
def _telling_of_a_full_disk(folder: str) -> Iterator[None]:
    """Adds to the error of a full disk which checkpoint is the last one."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        steps = Checkpoints(folder).steps
        last = f"its last checkpoint is of step {steps[-1]:,}" if steps else "without a checkpoint"
        raise OSError(
            f"no space left on the device for {error.filename or folder}; the run ends, {last}: "
            f"make room, and run the same command again to resume"
        ) from error


class _InterruptedError(Exception):
    """The run is to end during an evaluation."""


class _Loop(Follower):
    """What a run does after each step: it reports, saves checkpoints, and ends if asked.

    Attributes:
        waited: seconds spent waiting for batches so far.
        skipped: number of records that could not be used so far.
        signal: number of the signal that ended the run early; None if none did.
    """

    def __init__(
        self,
        training: Training,
        workdir: Workdir,
        checkpoints: Checkpoints,
        report: Optional[Report],
        interrupt: Interrupt,
    ):
        self.waited = 0.0
        self.skipped = 0
        self.signal: Optional[int] = None
        self._training = training
        self._options = training.options
        self._workdir = workdir
        self._checkpoints = checkpoints
        self._report = report
        self._interrupt = interrupt
        self._first = self._step = training.engine.step
        self._asked = self._first  # the step that `shows` was asked about last
        self._saved = self._first if checkpoints.latest else None
        self._saved_at = time.monotonic()

    def shows(self, step: int) -> bool:
        if self._report is None:
            return False
        before, self._asked = self._asked, step
        return before == self._first or passes(self._options.view_steps, before, step)

    def wishes(self) -> Wishes:
        options = self._options
        due = time.monotonic() - self._saved_at >= options.checkpoint_seconds
        save = due and options.checkpoint_steps is None
        return Wishes(leave=self._interrupt.signal is not None, save=save)

    def needs_state(self, step: int) -> bool:
        every = self._options.checkpoint_steps
        saves = every is not None and passes(every, step - 1, step)
        return saves or self._measures(step - 1, step)

    def after(self, result: StepResult) -> bool:
        step, before, loss = result.step, self._step, result.values["loss"]
        self._step = step
        self.waited += result.waited
        self.skipped += result.skipped
        if self._report:
            began = time.monotonic()
            found = self._neighbours(before, step) if math.isfinite(loss) else {}
            seconds = time.monotonic() - began if found else 0.0
            self._report.add(step, result.values, result.waited, result.skipped, found, seconds)
            if result.image is not None and result.image.ndim >= 4:  # not features from disk
                self._report.views(step, result.image)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {step}: try a lower --lr or a longer "
                f"--warmup-epochs, in another --workdir"
            )
        every = self._options.checkpoint_steps
        if result.agreed.save or (every and passes(every, before, step)):
            self.save()
            self._saved_at = time.monotonic()
        if result.agreed.leave:
            self.signal = self._interrupt.signal or signal.SIGTERM
        return not result.agreed.leave

    def _measures(self, before: int, step: int) -> bool:
        """Whether nearest neighbours are due after a step."""
        config, epochs = self._training.config, self._options.knn_epochs
        if self._training.monitor is None or epochs is None:
            return False
        return passes(epochs * config.steps_per_epoch, before, step) or step == config.steps

    def _neighbours(self, before: int, step: int) -> Mapping[str, float]:
        """The accuracies of nearest neighbours, if they are due after a step."""
        monitor = self._training.monitor
        if monitor is None or not self._measures(before, step):
            return {}

        def show(done: int, what: str) -> None:
            if self._interrupt.signal is not None:
                raise _InterruptedError
            if self._report:
                self._report.show(f"kNN: {what}, {done:,} images")

        beside = os.path.join(self._workdir.folder, ".knn")
        shutil.rmtree(beside, ignore_errors=True)  # if this was killed before
        os.makedirs(beside)
        try:
            path = Checkpoints(beside).save(step, self._training.engine.state(), {})
            return monitor.measure(path, step, show)
        except _InterruptedError:
            return {}
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def save(self) -> None:
        """Saves a checkpoint of the last step, unless there is one."""
        engine, loader = self._training.engine, self._training.loader
        if engine.step == self._saved:
            return
        self._saved = engine.step
        state = engine.state()
        if self._report:
            self._report.flush()
            # As if this were the only loader, so that any number of workers can resume.
            whole = {"batch_size": self._training.recipe.batch_size, "shard": [0, 1]}
            loaded = {**engine.loader_state(loader), **whole}
            self._checkpoints.save(self._saved, state, loaded)
            self._workdir.push()
