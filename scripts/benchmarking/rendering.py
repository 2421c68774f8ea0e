"""Renders a fixed number of records.

    python -m pretexture.scripts.benchmarking.rendering SHARD PRESET BATCHES

Two runs that differ only in BATCHES differ by the work for these batches: every run makes exactly
`PREFETCH` more batches, no matter how the threads are scheduled.
"""

import sys
import time

from pretexture.loader import Loader, TFRecords, presets

BATCH_SIZE, PREFETCH = 4, 1


def main() -> None:
    """Takes the batches, then waits until the prefetched ones are complete."""
    shard, preset, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
    training = not preset.startswith("EVAL")
    loader = Loader(
        TFRecords(shard),
        presets.ALL[preset],
        BATCH_SIZE,
        training=training,
        shuffle=False,
        threads=1,
        prefetch=PREFETCH,
    )
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    while loader.stats.records < (batches + PREFETCH) * BATCH_SIZE:
        time.sleep(0.05)
    loader.close()


if __name__ == "__main__":
    main()
