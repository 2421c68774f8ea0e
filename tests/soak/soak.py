"""Runs a Loader for thousands of batches and traces what the process holds.

    python tests/soak/soak.py --batches 2000 --out soak.csv

The records are JPEGs of every kind and size, PNGs, one image of 24 megapixels among some hundred,
and a broken one in fifty, which is skipped. Every twentieth batch is kept for a while, and every
500 batches the Loader is closed and a new one continues from its state. The last line compares
memory, open files and threads after the first quarter with those within it; the exit status is 1 if
they grew.
"""

import argparse
import collections
import csv
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "loader"))

import cv2
import numpy as np
from jpegs import KINDS, jpeg, photograph
from pretexture.loader import Loader, TFRecords, presets
from pretexture.loader.shards import writer

# What allocators and page caches may add after the first quarter, MB.
SLACK = 32


def main() -> int:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batches", type=int, default=2000, help="batches in all (default 2000)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    parser.add_argument("--pipeline", default=presets.ROTATION, help="pipeline (default rotation)")
    parser.add_argument("--out", help="CSV file for the trace")
    args = parser.parse_args()

    trace = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_data(folder)
        state, done = None, 0
        kept = collections.deque(maxlen=5)
        while done < args.batches:
            loader = Loader(
                TFRecords(paths, cache_dir=folder),
                args.pipeline,
                32,
                threads=args.threads,
                on_error="skip",
            )
            with loader:
                if state:
                    loader.load_state_dict(state)
                for batch in batches(loader, min(500, args.batches - done)):
                    done += 1
                    if done % 20 == 0:
                        kept.append(batch.image)
                    if done % 50 == 0 or done == args.batches:
                        trace.append((done, *held(), loader.stats.skipped))
                        if done % 200 == 0:
                            print(
                                "batch {:5d}: {:5.0f} MB, {} files, {} threads".format(*trace[-1])
                            )
                state = loader.state_dict()
    if args.out:
        with open(args.out, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["batch", "megabytes", "files", "threads", "skipped"])
            rows.writerows(trace)
    quarter = len(trace) // 4
    early, late = np.max(trace[:quarter], axis=0), np.max(trace[quarter:], axis=0)
    grown = late - early
    print(
        f"{done} batches; from the first quarter's highest to the highest after it: "
        f"{grown[1]:+.0f} MB, {grown[2]:+.0f} files, {grown[3]:+.0f} threads"
    )
    return int(grown[1] > SLACK or grown[2] > 0 or grown[3] > 0)


def batches(loader, count):
    """So many batches, epoch after epoch."""
    while count > 0:
        for batch in loader:
            yield batch
            count -= 1
            if count == 0:
                break


def held():
    """Resident memory in MB, open files and threads of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def write_data(folder):
    """Eight shards of 400 records in all."""
    random = np.random.RandomState(0)
    paths = []
    number = 0
    for shard in range(8):
        path = os.path.join(folder, f"train-{shard:05d}-of-00008")
        with writer.TFRecordWriter(path) as file:
            for _ in range(50):
                height, width = random.randint(200, 700, 2)
                image = jpeg(height, width, KINDS[number % len(KINDS)], seed=number)
                if number % 50 == 20:
                    image = image[: len(image) // 2]
                elif number % 50 == 30:
                    image = cv2.imencode(".png", photograph(height, width, number))[1].tobytes()
                elif number == 123:
                    image = jpeg(4000, 6000, "progressive", seed=number)
                features = {"image/encoded": image, "image/class/label": number % 10 + 1}
                file.write(writer.example(features))
                number += 1
        paths.append(path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
