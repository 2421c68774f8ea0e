"""Evaluation of a checkpoint on its pretext task, each image of a split once."""

import json
import os
import sys
from typing import Any, Dict, Optional, Tuple

from pretexture.loader import Loader, imagenet

from . import tasks
from .checkpoints import Checkpoints
from .engines import tf2
from .files import write_text
from .progress import Bar
from .splits import overlap
from .workdir import WorkdirError, read_config


def evaluate(
    workdir: str,
    data: str,
    split: Optional[str] = None,
    batch_size: Optional[int] = None,
    threads: Optional[int] = None,
    device: str = "auto",
) -> Dict[str, Any]:
    """The pretext metrics of a run's newest checkpoint; also written as `eval-SPLIT.json`.

    Args:
        workdir: of the run.
        data: folder of shards.
        split: None for the recipe's `eval_split`.
        batch_size: None for the recipe's `eval_batch_size`; the result does not depend on it.
        threads: of the loader; None for one a core.
        device: "auto", "cpu" or "gpu".

    Returns: `step`, `data`, `split`, `images`, and the means over all images of the task's loss
        and metrics.

    Raises: WorkdirError where there is no run or no checkpoint, and as `pretrain`.
    """
    tf2.open_device(device)
    config = read_config(workdir)
    recipe = config.recipe
    split = split or recipe.eval_split
    latest = Checkpoints(workdir).latest
    if latest is None:
        raise WorkdirError(f"{workdir} has no checkpoint yet")
    task = tasks.build(recipe)
    # Where a task is evaluated on random views, they are the same ones each time.
    loader = Loader(
        imagenet(data, split),
        recipe.pipeline,
        batch_size or recipe.eval_batch_size,
        training=task.random_evaluation,
        shuffle=False,
        drop_remainder=False,
        threads=threads,
    )
    engine = tf2.Engine(recipe, task, loader.element_spec, config.steps_per_epoch, config.seed)
    engine.restore_model(latest)
    warning = overlap(config.data, recipe.train_split, data, split)
    if warning:
        print(warning, file=sys.stderr)

    with loader:
        images, means = measure(engine, loader)
    result = {
        "step": engine.step,
        "data": data,
        "split": split,
        "images": images,
        **means,
    }
    write_text(os.path.join(workdir, f"eval-{split}.json"), json.dumps(result, indent=2) + "\n")
    return result


def measure(engine: tf2.Engine, loader: Any) -> Tuple[int, Dict[str, float]]:
    """How many images a loader's epoch has, and the means over them of loss and metrics.

    A last batch that is smaller is padded, and the padding does not count.
    """
    sums: Dict[str, float] = {}
    images = 0
    bar = Bar(len(loader))
    for number, batch in enumerate(loader, 1):
        for name, value in engine.evaluate(batch, loader.batch_size).items():
            sums[name] = sums.get(name, 0.0) + value
        images += len(batch.index)
        bar.update(number, f"{images:,} images")
    bar.close()
    return images, {name: total / images for name, total in sums.items()}
