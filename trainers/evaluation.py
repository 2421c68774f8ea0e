"""Evaluates a checkpoint on its pretext task, with each image of a split once."""

import contextlib
import json
import os
import shutil
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from pretexture.loader import Loader, Pipeline, imagenet, presets
from pretexture.loader.console.files import write_text
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, FetchError, Storage

from . import engines, tasks
from .engines.engine import Batches, Engine
from .engines.npu_options import DEFAULTS, NpuOptions
from .exports.saved_model import export_run
from .networks.layers import too_few_steps
from .runs.chance import chance
from .runs.checkpoints import CheckpointError, Checkpoints, checkpoint_path
from .runs.events import EventWriter
from .runs.folder import WorkdirError, overlap, read_config
from .runs.metrics import read_lines
from .runs.mirror import absolute, open_workdir


class Evaluation:
    """A run's model and the images that it is evaluated on.

    With `on_error="skip"`, records that cannot be used are left out: they count neither as images
    nor in the means.

    Args:
        workdir: path of the run's folder.
        data: folder of shards; a path or a URL.
        split: split to evaluate on; None for the recipe's `eval_split`.
        batch_size: images in a step; None for the recipe's `eval_batch_size`. Only the result of
            `exemplar` depends on it, because its loss compares the images of a batch.
        threads: number of the loader's threads; None for one per core.
        device: "auto", "cpu", "gpu" or "npu".
        npu: how an NPU runs.
        storage: how URLs are reached and where copies are kept.
        records: fields of `RecordOptions` that differ from how the run reads its records.
        pipeline: how an image becomes views, or the name of a preset; None for the recipe's. With
            another pipeline, results are not written.

    Raises: WorkdirError if there is no run, and as `pretrain`.
    """

    def __init__(
        self,
        workdir: str,
        data: str,
        split: Optional[str] = None,
        batch_size: Optional[int] = None,
        threads: Optional[int] = None,
        device: str = "auto",
        npu: NpuOptions = DEFAULTS,
        storage: Storage = DEFAULT_STORAGE,
        records: Optional[Mapping[str, Any]] = None,
        pipeline: Optional[str] = None,
    ):
        engines.require_one_process("evaluation")
        backend = engines.choose()
        place = backend.open_device(device, npu=npu)
        config = read_config(workdir)
        recipe = config.recipe
        self._workdir = workdir
        self._data = redacted(absolute(data))
        self._split = split or recipe.eval_split
        self._stem = os.path.join(workdir, f"eval-{self._split}")
        self._pipeline = pipeline
        self._chance = chance(recipe, batch_size or recipe.eval_batch_size)
        task = tasks.build(recipe)
        own = Pipeline(recipe.eval_pipeline or recipe.pipeline)
        views = own if pipeline is None else presets.find(pipeline)
        task.check(views)
        # Random views, for tasks that are evaluated on such, are the same in every evaluation.
        reading = RecordOptions(**{**config.features, **(records or {})})
        self._loader = Loader(
            imagenet(data, self._split, **vars(storage), **reading.features),
            views,
            batch_size or recipe.eval_batch_size,
            training=task.random_evaluation,
            shuffle=False,
            drop_remainder=False,
            threads=threads,
            dct=recipe.dct,
            **reading.loading,
        )
        self._engine = backend.Engine(
            recipe, task, self._loader.element_spec, config.steps_per_epoch, config.seed, place
        )
        same = config.data == self._data
        warning = overlap(
            data if same else config.data, recipe.train_split, data, self._split, storage
        )
        if warning:
            print(printable(warning), file=sys.stderr)

    def run(self, step: int) -> Dict[str, Any]:
        """Evaluates a step's checkpoint and writes the metrics to `eval-SPLIT.jsonl`.

        That file has a line for each step; the newest step's is also in `eval-SPLIT.json`. The
        folder `eval-SPLIT` has TensorBoard events.

        Returns: `step`, `data`, `split`, `images`, and the means over all images of the task's loss
            and metrics; `chance`, what guessing gives of each metric; `pipeline` if it was given;
            `skipped`, the number of records that could not be used, and `broken_shards`, the number
            of shards that could only be read in part, if there were any.

        Raises: CheckpointError.
        """
        warning = too_few_steps(step)
        if warning:
            print(warning, file=sys.stderr)
        self._engine.restore_model(checkpoint_path(self._workdir, step))
        self._loader.load_state_dict({**self._loader.state_dict(), "epoch": 0, "batch": 0})
        images, means = measure(self._engine, self._loader)
        about = {"step": step, "data": self._data, "split": self._split, "images": images}
        result = {**about, **left_out(self._loader, images), **means}
        result["chance"] = {name: share for name, share in self._chance.items() if name in means}
        if self._pipeline is not None:
            return {**result, "pipeline": self._pipeline}
        path = f"{self._stem}.jsonl"
        lines = [line for line in read_lines(path) if line["step"] != step]
        lines = sorted([*lines, result], key=lambda line: line["step"])
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        # What is behind the last checkpoint is of an earlier run in this folder.
        last = max([step, *Checkpoints(self._workdir).steps])
        newest = [line for line in lines if line["step"] <= last][-1]
        write_text(f"{self._stem}.json", json.dumps(newest, indent=2) + "\n")
        os.makedirs(self._stem, exist_ok=True)
        events = EventWriter(self._stem, step - 1 if newest is result else None)
        events.scalars(step, means)
        events.close()
        return result

    def done(self) -> Set[int]:
        """The steps that have been evaluated on this split of these data."""
        lines = read_lines(f"{self._stem}.jsonl")
        return {line["step"] for line in lines if line.get("data") == self._data}

    def __enter__(self) -> "Evaluation":
        return self

    def __exit__(self, *error: Any) -> None:
        self._loader.close()


def evaluate(
    workdir: str,
    data: str,
    split: Optional[str] = None,
    batch_size: Optional[int] = None,
    storage: Storage = DEFAULT_STORAGE,
    **how: Any,
) -> Dict[str, Any]:
    """Evaluates a run's newest checkpoint; arguments and result as for `Evaluation`.

    The run may be at a URL.

    Raises: WorkdirError if there is no run or no checkpoint, and as `pretrain`.
    """
    with open_workdir(workdir, storage, "evaluate") as opened:
        folder = opened.folder
        read_config(folder)
        steps = Checkpoints(folder).steps
        if not steps:
            raise WorkdirError(f"{workdir} has no checkpoint yet")
        how = {"split": split, "batch_size": batch_size, "storage": storage, **how}
        with Evaluation(folder, data, **how) as evaluation:
            return evaluation.run(steps[-1])


def follow(
    workdir: str,
    data: str,
    timeout: Optional[float] = None,
    poll: float = 5.0,
    storage: Storage = DEFAULT_STORAGE,
    **how: Any,
) -> Iterator[Dict[str, Any]]:
    """Evaluates and exports each checkpoint of a run as it appears, up to the run's last step.

    The run may be at a URL, and need not have begun. Checkpoints that were evaluated before, on the
    same split of the same data, are left out. Exports are `WORKDIR/exports/STEP`; those whose
    checkpoints are gone are removed.

    Args:
        workdir, data, storage, how: as for `Evaluation`.
        timeout: seconds to wait for another checkpoint; None to wait forever.
        poll: seconds between two looks for checkpoints.

    Yields: as `Evaluation.run`.

    Raises: WorkdirError after `timeout`, and as `Evaluation`.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_workdir(workdir, storage, "evaluate"))
        folder = opened.folder
        evaluation: Optional[Evaluation] = None
        done: Set[int] = set()
        seen = time.monotonic()
        while True:
            try:
                opened.pull()
            except FetchError as error:  # the URL may be reachable again before the run ends
                print(printable(f"warning: {error}"), file=sys.stderr)
            steps, total = _progress(folder)
            if steps and evaluation is None:
                evaluation = Evaluation(folder, data, storage=storage, **how)
                stack.enter_context(evaluation)
                done = evaluation.done()
            for step in steps:
                if evaluation is None or step in done:
                    continue
                done.add(step)
                result = None
                try:
                    result = evaluation.run(step)
                    _export(folder, step)
                except (CheckpointError, WorkdirError):
                    if step in Checkpoints(folder).steps:
                        raise
                    # The run has removed the checkpoint meanwhile.
                if result is None:
                    continue
                opened.push()
                yield result
                seen = time.monotonic()
            if total is not None and total in done:
                return
            if timeout is not None and time.monotonic() - seen > timeout:
                after = f"after step {max(done):,} of {total:,}" if done else "at all"
                raise WorkdirError(f"no checkpoint in {folder} for {timeout:g} s, {after}")
            time.sleep(poll)


def _progress(workdir: str) -> Tuple[List[int], Optional[int]]:
    """The steps that have a checkpoint, and the total number of steps; None if unknown."""
    try:
        return Checkpoints(workdir).steps, read_config(workdir).steps
    except WorkdirError:
        return [], None


def _export(workdir: str, step: int) -> None:
    folder = os.path.join(workdir, "exports")
    export_run(workdir, os.path.join(folder, str(step)), step)
    steps = set(map(str, Checkpoints(workdir).steps))
    for name in os.listdir(folder):
        if name.isdigit() and name not in steps:
            shutil.rmtree(os.path.join(folder, name))


def measure(engine: Engine, loader: Batches) -> Tuple[int, Dict[str, float]]:
    """The number of images in a loader's epoch, and the means over them of loss and metrics.

    Neither padding counts, nor a record that took the place of one that could not be used.
    """

    def show(batches: int, images: int) -> None:
        skipped = min(batches * loader.batch_size, loader.num_records) - images
        bar.update(batches, f"{images:,} images" + (f", {skipped:,} skipped" if skipped else ""))

    with contextlib.closing(Bar(len(loader), "batches")) as bar:
        images, sums = engine.measure(loader, show)
    return images, {name: total / images for name, total in sums.items()}


def left_out(loader: Loader, images: int) -> Dict[str, int]:
    """What is missing from an epoch that counts each record once; {} if nothing is.

    Args:
        loader: the epoch's loader.
        images: number of images that were counted.
    """
    counts = {
        "skipped": loader.num_records - images,
        "broken_shards": len(loader.records.shard_index(loader.on_error).faults),
    }
    return {name: count for name, count in counts.items() if count}
