"""Kills prepare.py at random moments, again and again, and compares what comes out in the end.

    python tests/kills/prepare_kills.py --kills 300

Each run is killed with SIGKILL (its worker processes end with it) and started again with the same
command, until one finishes undisturbed; then its folder is compared, byte by byte, with that of a
run that was never killed. The exit status is 1 if they differ.
"""

import argparse
import io
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

PREPARE = str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "prepare.py")


def main(arguments=None):
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=300, help="in all (default 300)")
    parser.add_argument("--images", type=int, default=400, help="images to convert (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        kills, runs, differences = kill(pathlib.Path(folder), args.kills, args.images, args.seed)
    print(f"{kills} kills in {runs} runs; files that differ: {differences or 'none'}")
    return 1 if differences else 0


def kill(folder, kills, images, seed):
    """Returns the kills that hit, the runs that finished, and the names of files that differ."""
    moments = random.Random(seed)
    write_images(folder / "src", images)
    began = time.monotonic()
    subprocess.run(command(folder, "expected"), check=True, capture_output=True)
    whole = time.monotonic() - began
    expected = contents(folder / "expected")
    hit = runs = 0
    differences = set()
    while hit < kills:
        out = f"out{runs}"
        # Ten kills a run at most, so that runs of all lengths come to their end.
        for _ in range(min(10, kills - hit)):
            process = subprocess.Popen(
                command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(moments.uniform(0, whole))
                break  # it was faster
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                hit += 1
        subprocess.run(command(folder, out), check=True, capture_output=True)
        runs += 1
        found = contents(folder / out)
        differences |= {
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        }
    return hit, runs, sorted(differences)


def command(folder, out):
    """The same command every time."""
    flags = ["--workers", "2", "--on-error", "skip", "--train-shards", "12"]
    return [sys.executable, PREPARE, str(folder / "src"), str(folder / out), *flags]


def contents(folder):
    """The bytes of all files that a run leaves, the hidden manifest included, by name."""
    return {name: (folder / name).read_bytes() for name in os.listdir(str(folder))}


def write_images(src, count):
    """Photograph-like noise in three classes: JPEGs, PNGs, and a few files that are no images."""
    noise = np.random.RandomState(0)
    for number in range(count):
        folder = src / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(noise.randint(0, 256, (90, 120, 3)).astype(np.uint8))
        kind = "PNG" if number % 4 == 0 else "JPEG"
        buffer = io.BytesIO()
        image.save(buffer, kind)
        data = b"no image" if number % 97 == 50 else buffer.getvalue()
        (folder / f"{number}.{'png' if kind == 'PNG' else 'jpg'}").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
