"""A pretraining run, from its recipe to its last checkpoint."""

import contextlib
import dataclasses
import math
import signal
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader import Loader, Pipeline, TFRecords, imagenet
from pretexture.loader.console.files import is_full
from pretexture.loader.console.interrupt import Interrupt
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import duration
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, FEATURES, RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage

from . import engines, tasks
from .engines.npu_options import DEFAULTS, NpuOptions
from .engines.optimization import schedule
from .recipes import Recipe
from .runs.checkpoints import Checkpoints
from .runs.folder import Config, check_config, write_config
from .runs.metrics import SKIPPED, describe, read_metrics, speed
from .runs.mirror import Workdir, absolute, open_workdir
from .runs.report import Report, passes
from .runs.splits import overlap


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run needs to know besides its recipe.

    Attributes:
        data: folder of train-*-of-* and validation-*-of-* shards; a path or a URL.
        workdir: the run's folder; a run that is in it is taken up again. One at a URL is brought up
            to date with each checkpoint.
        storage: how URLs are reached and where copies are kept.
        records: how records are read, and what happens to those that cannot be used.
        steps: to make in all; None for the recipe's epochs, 0 for a network that is not trained.
        seed: of the initial weights, the order of images and all other random decisions; 31 bits.
        threads: of the loader; None for one a core.
        device: "auto", "cpu", "gpu" or "npu".
        devices: of this process, which share each batch.
        npu: how an NPU runs.
        checkpoint_seconds: between two checkpoints.
        checkpoint_steps: between two checkpoints; None to go by seconds.
        log_steps: between two lines of metrics.
        view_steps: between two grids of views in TensorBoard, the first at the first step.
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

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: the last one made.
        total: steps that it was to make.
        interrupted: the signal that ended it early; None where none did.
        chief: whether this is the process that wrote the results.
    """

    step: int
    total: int
    interrupted: Optional[int]
    chief: bool


class DivergedError(ArithmeticError):
    """A loss that is no number any more."""


def pretrain(
    recipe: Recipe,
    options: Options,
    say: Callable[[str], None] = print,
    workdir: Optional[Workdir] = None,
) -> Outcome:
    """Trains by a recipe, from the start or from the newest checkpoint in the workdir.

    Args:
        recipe: what to train and how.
        options: on what, where to, and for how long.
        say: is told, line by line, what the run will do and what it did.
        workdir: what keeps `options.workdir`; default by its name, which may be a URL.

    Raises: ValueError (also as PipelineError, RecordError, WorkdirError, CheckpointError), OSError
        and DivergedError, whose messages say what to change.
    """
    backend = engines.choose()
    place = backend.open_device(options.device, options.devices, options.npu)
    task = tasks.build(recipe)
    pipeline = Pipeline(recipe.pipeline)
    task.check(pipeline)
    if recipe.eval_pipeline:
        task.check(Pipeline(recipe.eval_pipeline))
    loader = Loader(
        imagenet(
            options.data,
            recipe.train_split,
            **vars(options.storage),
            **options.records.features,
        ),
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
    return fit(recipe, options, engine, loader, loader.records, place, say, workdir=workdir)


def share(batch_size: int, place: Any) -> int:
    """A worker's part of a batch. Raises ValueError where the replicas' parts would differ."""
    total = place.workers * place.replicas
    if batch_size % total:
        raise ValueError(
            f"batch_size {batch_size} is that of all {total} devices together, and not a multiple "
            f"of {total}: give another --batch-size"
        )
    return batch_size // place.workers


def fit(
    recipe: Recipe,
    options: Options,
    engine: Any,
    loader: Any,
    records: TFRecords,
    place: Any,
    say: Callable[[str], None],
    module: str = "",
    workdir: Optional[Workdir] = None,
) -> Outcome:
    """Trains an engine's model on a loader's batches, with all that makes it a run.

    Args:
        recipe, options, say, workdir: as for `pretrain`.
        engine: of the module that `engines.choose` gives.
        loader: a `Loader`, or what has its iteration, `len`, `num_records`, `state_dict` and
            `load_state_dict`; it is closed at the end.
        records: those of the training split.
        place: where, as the engine's `open_device` gives it. Of several workers only the first
            writes and says anything.
        module: the export that linear evaluation is about.

    Raises: as `pretrain`.
    """
    config = Config(
        recipe=recipe,
        seed=options.seed,
        records=loader.num_records,
        steps_per_epoch=len(loader),
        steps=math.ceil(recipe.epochs * len(loader)) if options.steps is None else options.steps,
        parameters=engine.parameters,
        data=redacted(absolute(options.data)),
        tensorflow=tf.__version__,
        module=redacted(module),
        **{name: getattr(records, name) for name in FEATURES},
    )
    with workdir or open_workdir(options.workdir, options.storage, "train", place.worker) as opened:
        try:
            return _fit(config, options, engine, loader, place, say, opened)
        except OSError as error:
            if not is_full(error):
                raise
            steps = Checkpoints(opened.folder).steps
            last = "with no checkpoint"
            if steps:
                last = f"its last checkpoint is that of step {steps[-1]:,}"
            raise OSError(
                f"no space left on the device for {error.filename or opened.folder}; the run ends, "
                f"{last}: make room, and run the same command again to resume"
            ) from error


def _fit(
    config: Config,
    options: Options,
    engine: Any,
    loader: Any,
    place: Any,
    say: Callable[[str], None],
    workdir: Workdir,
) -> Outcome:
    batch_size = config.recipe.batch_size
    folder = workdir.folder
    chief = place.worker == 0
    if place.workers > 1:
        # What the first worker's copy of the run has more than the URL, the others must see.
        if chief:
            workdir.push()
        engine.wait()
        if not chief:
            workdir.pull()
    checkpoints = Checkpoints(folder)
    if checkpoints.latest:
        check_config(folder, config)
        state = engine.restore(checkpoints.latest)
        loader.load_state_dict(_own_state(state, loader))
    engine.start()
    first = step = engine.step
    if chief:
        write_config(folder, config)
        for line in _plan(config, options, place.words, step):
            say(printable(line))

    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(loader)
        interrupt = stack.enter_context(Interrupt(loader.close, place.workers))
        report = None
        if chief:
            report = Report(folder, step, config.steps, len(loader), batch_size, options.log_steps)
            stack.enter_context(report)

        saved = step if checkpoints.latest else None

        def save() -> None:
            nonlocal saved
            if engine.step == saved:
                return
            saved = engine.step
            state = engine.state()
            if report:
                report.flush()
                loaded = _whole_state(engine.loader_state(loader), batch_size)
                checkpoints.save(saved, state, loaded)
                workdir.push()

        after = _AfterStep(options, step, report, interrupt, save)
        if interrupt.signal is None or place.workers > 1:
            with _quiet_if_asked(interrupt):
                engine.fit(loader, config.steps, after, interrupt)
        if interrupt.closed and place.workers > 1:  # others may be in a step: no checkpoint
            raise KeyboardInterrupt
        step = engine.step
        if step < config.steps:
            after.signal = after.signal or interrupt.signal
        save()
        engine.wait()

    seconds = time.monotonic() - began
    if after.skipped and not (chief or engine.counts_all):
        print(f"worker {place.worker}: {_skipped(after.skipped)}", file=sys.stderr)
    if chief:
        metrics = read_metrics(folder)
        for line in _result(
            config, options, metrics, first, step, seconds, after.waited, after.signal
        ):
            say(printable(line))
    return Outcome(step, config.steps, after.signal, chief)


@contextlib.contextmanager
def _quiet_if_asked(interrupt: Interrupt) -> Iterator[None]:
    """After a signal, what other workers miss because they end is not an error."""
    try:
        yield
    except ConnectionError:
        if interrupt.signal is None:
            raise
        raise KeyboardInterrupt from None


def _own_state(state: Mapping[str, Any], loader: Any) -> Dict[str, Any]:
    """A worker's state of a loader, from that of the whole run."""
    if "shard" not in state:  # of features from disk
        return dict(state)
    return {**state, "batch_size": loader.batch_size, "shard": list(loader.shard)}


def _whole_state(state: Mapping[str, Any], batch_size: int) -> Dict[str, Any]:
    """The state of a loader as if it was the only one, so that any number of workers goes on."""
    if "shard" not in state:
        return dict(state)
    return {**state, "batch_size": batch_size, "shard": [0, 1]}


class _AfterStep:
    """What is done after each step; see `Engine.fit`.

    Attributes:
        waited: for batches, seconds in all.
        skipped: records that could not be used, in all.
        signal: that ended the run early; None where none did.
    """

    def __init__(
        self,
        options: Options,
        first: int,
        report: Optional[Report],
        interrupt: Interrupt,
        save: Callable[[], None],
    ):
        self.waited = 0.0
        self.skipped = 0
        self.signal: Optional[int] = None
        self._options = options
        self._first = first
        self._step = first
        self._report = report
        self._interrupt = interrupt
        self._save = save
        self._saved = time.monotonic()

    def shows(self, step: int) -> bool:
        if self._report is None:
            return False
        return self._step == self._first or passes(self._options.view_steps, self._step, step)

    def wishes(self) -> Tuple[bool, bool]:
        """Whether this process is asked to end, and whether it is time for a checkpoint."""
        waited = time.monotonic() - self._saved
        return self._interrupt.signal is not None, waited >= self._options.checkpoint_seconds

    def __call__(
        self,
        step: int,
        values: Dict[str, float],
        waited: float,
        image: Optional[np.ndarray],
        skipped: int = 0,
        agreed: Optional[Tuple[bool, bool]] = None,
    ) -> bool:
        leave, save = self.wishes() if agreed is None else agreed
        self.waited += waited
        self.skipped += skipped
        if self._report:
            self._report.add(step, values, waited, skipped)
            if image is not None and image.ndim >= 4:  # not features from disk
                self._report.views(step, image)
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"the loss is {values['loss']} at step {step}: try a lower --lr or a longer "
                f"--warmup-epochs, in another --workdir"
            )
        if self._options.checkpoint_steps:
            save = passes(self._options.checkpoint_steps, self._step, step)
        self._step = step
        if save:
            self._save()
            self._saved = time.monotonic()
        if leave:
            self.signal = self._interrupt.signal or signal.SIGTERM
        return not leave


def _plan(config: Config, options: Options, device: str, step: int) -> List[str]:
    """What a run will do."""
    recipe = config.recipe
    rate = schedule(recipe, config.steps_per_epoch)
    words = [f"{recipe.optimizer}, learning rate {rate.base:g}"]
    if rate.warmup_epochs:
        words.append(f"warmed up over {rate.warmup_epochs:g} epochs")
    if rate.decay_epochs:
        epochs = ", ".join(f"{epoch:g}" for epoch in rate.decay_epochs)
        words.append(f"times {rate.decay_factor:g} after epochs {epochs}")
    words.append(f"weight decay {recipe.weight_decay:g}")
    lines = [
        f"task      {recipe.task}",
        f"data      {redacted(options.data)}, split {recipe.train_split}: {config.records:,} "
        f"images, {config.steps_per_epoch:,} steps of {recipe.batch_size} an epoch",
        f"views     {recipe.pipeline}",
        f"heads     {config.parameters:,} parameters on the frozen {config.module}"
        if config.module
        else f"model     {recipe.architecture}, widening factor {recipe.filters_factor:g}: "
        f"{config.parameters:,} parameters",
        f"device    {device}, TensorFlow {config.tensorflow}",
        f"training  {', '.join(words)}",
        f"steps     {config.steps:,}, {config.steps / config.steps_per_epoch:.3g} epochs",
        f"workdir   {redacted(options.workdir)}"
        + (f", taken up again after step {step:,}" if step else ""),
    ]
    warning = overlap(
        options.data, recipe.train_split, options.data, recipe.eval_split, options.storage
    )
    return [*lines, warning] if warning else lines


def _result(
    config: Config,
    options: Options,
    metrics: List[Dict[str, Any]],
    first: int,
    step: int,
    seconds: float,
    waited: float,
    interrupted: Optional[int],
) -> List[str]:
    """What a run did."""
    steps = step - first
    if not steps and interrupted:
        return [f"interrupted before step {step + 1:,} of {config.steps:,}"]
    if not steps:
        return [f"nothing to do: step {step:,} of {config.steps:,} was made already"]
    lines = [
        f"{'interrupted' if interrupted else 'done'} after step {step:,} of {config.steps:,}: "
        f"{steps:,} steps in {duration(seconds)}, "
        f"{speed(steps * config.recipe.batch_size / seconds)}, "
        f"{waited / seconds:.1%} of the time waiting for data"
    ]
    skipped = sum(line.get(SKIPPED, 0) for line in metrics)
    if skipped:
        lines.append(_skipped(skipped))
    # Means over few steps, as at the end, say little; without others they must do.
    metrics = [m for m in metrics if m["step"] % options.log_steps == 0] or metrics
    best = max(metrics, key=lambda line: line.get("accuracy", -line["loss"]))
    for name, line in (("last", metrics[-1]), ("best", best)):
        lines.append(f"{name} metrics, at step {line['step']:,}: {describe(line)}")
    return lines


def _skipped(records: int) -> str:
    return (
        f"skipped {records:,} records that could not be used, counted each time they came up; "
        "others took their place"
    )
