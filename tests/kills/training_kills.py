"""Kills a training run at random moments, resumes it, and compares it with one never killed.

    python tests/kills/training_kills.py --kills 300

Every other kill comes while a checkpoint is being written: as soon as one of its files appears, or
a few milliseconds later. The others come at any moment, even before the first step. After several
kills, a run is resumed and finished. Its metrics must then be those of the undisturbed run, line by
line, and its last checkpoint must have the same values, bit for bit. If not, the exit status is 1.

One process imports TensorFlow and forks for each run, before it computes anything, so that a kill
takes a second.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Set, Tuple

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "trainers"))

import numpy as np
from pretexture.scripts import run_flags

run_flags.import_tensorflow()

import tensorflow as tf
import tiny
from learned import learned
from PIL import Image
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.checkpoints import Checkpoints, read

STEPS = 60
KILLS_A_RUN = 10
LATE = 0.005  # seconds after a file of a checkpoint appears


def main() -> int:
    """Runs the command; returns its exit status."""
    flags = _flags()
    print(f"seed {flags.seed}", flush=True)
    choice = random.Random(flags.seed)
    tiny.register(lambda mapping, key, value: mapping.update({key: value}))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
        _write_shards(folder)
        whole = os.path.join(folder, "whole")
        began = time.monotonic()
        _finish(folder, whole)
        seconds = time.monotonic() - began
        kills = differing = writing = runs = 0
        while kills < flags.kills:
            run = os.path.join(folder, f"run-{runs}")
            runs += 1
            for _ in range(min(KILLS_A_RUN, flags.kills - kills)):
                before = _unfinished(run)
                if not _kill(folder, run, choice, seconds, at_checkpoint=kills % 2 == 1):
                    break  # it ended before the kill
                kills += 1
                writing += not _unfinished(run) <= before
            _finish(folder, run)
            same = _same(run, whole)
            differing += not same
            print(f"{kills} kills: {'as undisturbed' if same else f'DIFFERS: {run}'}", flush=True)
            if same:
                shutil.rmtree(run)
        print(
            f"{kills} kills of {runs} runs of {STEPS} steps on TensorFlow {tf.__version__}, "
            f"{writing} of them while a checkpoint was written: {differing} runs differ"
        )
    return 1 if differing else 0


def _train(folder: str, run: str) -> None:
    options = Options(folder, run, steps=STEPS, log_steps=1, checkpoint_steps=1, device="cpu")
    pretrain(tiny.ROTATION, options, say=lambda line: None)


def _fork(folder: str, run: str) -> int:
    """Starts a run in another process; returns the process's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        kept = os.dup(2)
        os.dup2(nothing, 2)
        _train(folder, run)
        status = 0
    except BaseException:
        os.dup2(kept, 2)
        traceback.print_exc()
    finally:
        os._exit(status)


def _finish(folder: str, run: str) -> None:
    _, status = os.waitpid(_fork(folder, run), 0)
    if status:
        sys.exit(f"a run that was not killed ended with status {status}, see above: {run}")


def _kill(
    folder: str, run: str, choice: random.Random, seconds: float, at_checkpoint: bool
) -> bool:
    """Starts a run and kills it; returns whether it was still running.

    Args:
        folder: folder of the shards.
        run: the run's folder.
        choice: draws the moment of the kill.
        seconds: seconds that a whole run takes.
        at_checkpoint: whether the kill comes while a checkpoint is being written.
    """
    before = _unfinished(run)
    child = _fork(folder, run)
    began = time.monotonic()
    # A kill in the first quarter leaves steps for later kills.
    moment = choice.uniform(0, seconds / 4 if at_checkpoint else seconds / 2)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() - began < moment:
            time.sleep(0.0005)
            continue
        if at_checkpoint and _unfinished(run) <= before:
            continue
        if at_checkpoint:
            time.sleep(choice.uniform(0, LATE))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    return False


def _unfinished(run: str) -> Set[Tuple[str, int]]:
    """The files of incomplete checkpoints, each with the time when it was last written."""
    found, whole = {}, set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(run):
            name, _, ending = entry.name.rpartition(".")
            if ending == "index":
                whole.add(name)
            if entry.name.startswith((".model.ckpt-", "model.ckpt-")):
                with contextlib.suppress(FileNotFoundError):  # it has just been renamed
                    found[entry.name] = entry.stat().st_mtime_ns
    return {(name, when) for name, when in found.items() if name.rpartition(".")[0] not in whole}


def _same(run: str, whole: str) -> bool:
    """Compares two runs line by line and bit by bit, and says what differs."""
    lines = [learned(folder) for folder in (run, whole)]
    for line, expected in zip(*lines):
        if line != expected:
            print(f"found {line}\nnot   {expected}")
            return False
    if len(lines[0]) != len(lines[1]):
        print(f"{len(lines[0])} lines, not {len(lines[1])}")
        return False
    paths = [Checkpoints(folder).latest for folder in (run, whole)]
    names = list(tf.train.load_checkpoint(paths[0]).get_variable_to_shape_map())
    names.remove("loader_state")
    (found, state), (expected, expected_state) = (read(str(path), names) for path in paths)
    for name in names:
        if not np.array_equal(found[name], expected[name]):
            print(f"{name} differs")
            return False
    if state != expected_state:
        print(f"found {state}\nnot   {expected_state}")
        return False
    return True


def _write_shards(folder: str) -> None:
    """Four training shards of 12 small images, and one for evaluation."""
    pixels = np.random.RandomState(0)
    names = [f"train-{i:05}-of-00004" for i in range(4)] + ["validation-00000-of-00001"]
    for name in names:
        with TFRecordWriter(os.path.join(folder, name)) as writer:
            for number in range(12):
                image = Image.fromarray(pixels.randint(0, 256, (36, 36, 3)).astype(np.uint8))
                file = io.BytesIO()
                image.save(file, "JPEG")
                features = {"image/encoded": file.getvalue(), "image/class/label": number % 3 + 1}
                writer.write(example(features))


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="how many (default: 10)")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(2**32),
        help="random seed of the moments, which the speed of the machine shifts (default: random)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
