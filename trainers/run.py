"""A pretraining run, from its recipe to its last checkpoint."""

import dataclasses
import math
import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import tensorflow as tf
from pretexture.loader import Loader, Pipeline, imagenet
from pretexture.loader.remote import DEFAULT_STORAGE, Storage

from . import engines, tasks
from .checkpoints import Checkpoints
from .interrupt import Interrupt
from .metrics import describe, read_metrics, speed
from .optimization import schedule
from .progress import duration
from .recipes import Recipe
from .remote_workdir import Workdir, absolute, open_workdir
from .report import Report
from .splits import overlap
from .workdir import Config, check_config, write_config


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run needs to know besides its recipe.

    Attributes:
        data: folder of train-*-of-* and validation-*-of-* shards; a path or a URL.
        workdir: the run's folder; a run that is in it is taken up again. One at a URL is brought up
            to date with each checkpoint.
        storage: how URLs are reached and where copies are kept.
        steps: to make in all; None for the recipe's epochs, 0 for a network that is not trained.
        seed: of the initial weights, the order of images and all other random decisions; 31 bits.
        threads: of the loader; None for one a core.
        device: "auto", "cpu", "gpu" or "npu".
        checkpoint_seconds: between two checkpoints.
        checkpoint_steps: between two checkpoints; None to go by seconds.
        log_steps: between two lines of metrics.
        view_steps: between two grids of views in TensorBoard, the first at the first step.
    """

    data: str
    workdir: str
    storage: Storage = DEFAULT_STORAGE
    steps: Optional[int] = None
    seed: int = 0
    threads: Optional[int] = None
    device: str = "auto"
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
    """

    step: int
    total: int
    interrupted: Optional[int]


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
    device = backend.open_device(options.device)
    task = tasks.build(recipe)
    pipeline = Pipeline(recipe.pipeline)
    task.check(pipeline)
    records = imagenet(options.data, recipe.train_split, **vars(options.storage))
    loader = Loader(
        records,
        pipeline,
        recipe.batch_size,
        training=True,
        seed=options.seed,
        threads=options.threads,
    )
    engine = backend.Engine(recipe, task, loader.element_spec, len(loader), options.seed)
    return fit(recipe, options, engine, loader, len(records), device, say, workdir=workdir)


def fit(
    recipe: Recipe,
    options: Options,
    engine: Any,
    loader: Any,
    records: int,
    device: str,
    say: Callable[[str], None],
    module: str = "",
    workdir: Optional[Workdir] = None,
) -> Outcome:
    """Trains an engine's model on a loader's batches, with all that makes it a run.

    Args:
        recipe, options, say, workdir: as for `pretrain`.
        engine: of the module that `engines.choose` gives.
        loader: a `Loader`, or what has its iteration, `len`, `state_dict` and `load_state_dict`;
            it is closed at the end.
        records: in the training split.
        device: in words.
        module: the export that linear evaluation is about.

    Raises: as `pretrain`.
    """
    with workdir or open_workdir(options.workdir, options.storage, "train") as opened:
        return _fit(recipe, options, engine, loader, records, device, say, module, opened)


def _fit(
    recipe: Recipe,
    options: Options,
    engine: Any,
    loader: Any,
    records: int,
    device: str,
    say: Callable[[str], None],
    module: str,
    workdir: Workdir,
) -> Outcome:
    config = Config(
        recipe=recipe,
        seed=options.seed,
        records=records,
        steps_per_epoch=len(loader),
        steps=math.ceil(recipe.epochs * len(loader)) if options.steps is None else options.steps,
        parameters=engine.parameters,
        data=absolute(options.data),
        tensorflow=tf.__version__,
        module=module,
    )
    folder = workdir.folder
    checkpoints = Checkpoints(folder)
    if checkpoints.latest:
        check_config(folder, config)
        loader.load_state_dict(engine.restore(checkpoints.latest))
    write_config(folder, config)
    first = step = engine.step
    for line in _plan(config, options, device, step):
        say(line)

    began = time.monotonic()
    with loader, Interrupt() as interrupt, Report(
        folder, step, config.steps, len(loader), recipe.batch_size, options.log_steps
    ) as report:

        def save() -> None:
            report.flush()
            if engine.step not in checkpoints.steps:
                checkpoints.save(engine.step, engine.state(), engine.loader_state(loader))
                workdir.push()

        after = _AfterStep(options, step, report, interrupt, save)
        if interrupt.signal is None:
            engine.fit(loader, config.steps, after)
        step = engine.step
        save()

    seconds = time.monotonic() - began
    metrics = read_metrics(folder)
    for line in _result(
        config, options, metrics, first, step, seconds, after.waited, interrupt.signal
    ):
        say(line)
    return Outcome(step, config.steps, interrupt.signal)


class _AfterStep:
    """What is done after each step; see `Engine.fit`."""

    def __init__(
        self,
        options: Options,
        first: int,
        report: Report,
        interrupt: Interrupt,
        save: Callable[[], None],
    ):
        self.waited = 0.0
        self._options = options
        self._first = first
        self._report = report
        self._interrupt = interrupt
        self._save = save
        self._saved = time.monotonic()

    def shows(self, step: int) -> bool:
        return step == self._first + 1 or step % self._options.view_steps == 0

    def __call__(
        self, step: int, values: Dict[str, float], waited: float, image: Optional[np.ndarray]
    ) -> bool:
        self.waited += waited
        self._report.add(step, values, waited)
        if image is not None and image.ndim >= 4:  # not features from disk
            self._report.views(step, image)
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"the loss is {values['loss']} at step {step}: try a lower --lr or a longer "
                f"--warmup-epochs, in another --workdir"
            )
        if self._options.checkpoint_steps:
            due = step % self._options.checkpoint_steps == 0
        else:
            due = time.monotonic() - self._saved >= self._options.checkpoint_seconds
        if due:
            self._save()
            self._saved = time.monotonic()
        return self._interrupt.signal is None


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
        f"data      {options.data}, split {recipe.train_split}: {config.records:,} images, "
        f"{config.steps_per_epoch:,} steps of {recipe.batch_size} an epoch",
        f"views     {recipe.pipeline}",
        f"heads     {config.parameters:,} parameters on the frozen {config.module}"
        if config.module
        else f"model     {recipe.architecture}, widening factor {recipe.filters_factor:g}: "
        f"{config.parameters:,} parameters",
        f"device    {device}, TensorFlow {config.tensorflow}",
        f"training  {', '.join(words)}",
        f"steps     {config.steps:,}, {config.steps / config.steps_per_epoch:.3g} epochs",
        f"workdir   {options.workdir}" + (f", taken up again after step {step:,}" if step else ""),
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
    # Means over few steps, as at the end, say little; without others they must do.
    metrics = [m for m in metrics if m["step"] % options.log_steps == 0] or metrics
    best = max(metrics, key=lambda line: line.get("accuracy", -line["loss"]))
    for name, line in (("last", metrics[-1]), ("best", best)):
        lines.append(f"{name} metrics, at step {line['step']:,}: {describe(line)}")
    return lines
