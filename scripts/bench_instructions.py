"""Counts the instructions that the Loader needs for an image, and compares with kept figures.

A guard against getting slower that no noise can fool: valgrind counts, on generated images, with
one thread and the AVX2 code (valgrind knows no AVX-512). The difference of two runs of different
length leaves out all start-up. The kept figures hold for one compiler, libjpeg and input; if any
of them differs, nothing is compared, and the output says so.
"""

import argparse
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from pretexture.loader import TFRecords, _core, presets
from pretexture.loader.shards import writer
from pretexture.loader.shards.row_index import index_rows
from pretexture.scripts import flags
from pretexture.scripts.benchmarking import machine
from pretexture.scripts.benchmarking.rendering import BATCH_SIZE, PREFETCH

# The presets that need only a part of an image are also counted in later epochs, which know where
# the rows of each JPEG begin.
LATER = {f"{name}, later": name for name in ("SUPERVISED", "ROTATION", "EVAL")}
NAMES = [*presets.PAPER, "SIMCLR", *LATER]

KEPT = pathlib.Path(__file__).with_name("instructions.json")
TOLERANCE = 0.03

# Height, width and chroma subsampling of the images. As in ImageNet most are not subsampled.
_IMAGES = (
    (375, 500, "4:4:4"),
    (500, 333, "4:2:0"),
    (333, 500, "4:4:4"),
    (480, 640, "4:4:4"),
    (375, 500, "4:2:0"),
    (500, 375, "4:4:4"),
    (300, 400, "4:4:4"),
    (375, 500, "grey"),
    (600, 450, "4:4:4"),
    (375, 500, "4:4:4"),
    (500, 400, "4:2:0"),
    (375, 500, "4:4:4"),
)
_FEW, _MANY = 1, 1 + len(_IMAGES) // BATCH_SIZE  # batches


class Count(NamedTuple):
    """Instructions an image.

    Attributes:
        total: all of them.
        core: those in the compiled core itself; most others are libjpeg's.
    """

    total: int
    core: int


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        if shutil.which("valgrind") is None:
            raise ValueError("valgrind is not installed (Debian: apt-get install valgrind)")
        if "avx2" not in _core.kernels():
            raise ValueError("the counts are of the AVX2 code, which this processor cannot run")
        with tempfile.TemporaryDirectory() as folder:
            shard, digest = _write_shard(pathlib.Path(folder))
            counts = _count_all(args.presets, shard, args.jobs)
        conditions = {**_conditions(), "input": digest}
        if args.update:
            _keep(counts, conditions)
            return 0
        return _compare(counts, conditions)


def _write_shard(folder: pathlib.Path) -> Tuple[pathlib.Path, str]:
    """Writes the images; returns the shard and a digest of them."""
    path = folder / "train-00000-of-00001"
    digest = hashlib.sha256()
    repeats = -(-(_MANY + PREFETCH) * BATCH_SIZE // len(_IMAGES))
    with writer.TFRecordWriter(path) as shard:
        for number, (height, width, kind) in enumerate(_IMAGES * repeats):
            jpeg = _jpeg(number, height, width, kind)
            digest.update(jpeg)
            shard.write(writer.example({"image/encoded": jpeg, "image/class/label": 1}))
    return path, digest.hexdigest()[:16]


def _jpeg(seed: int, height: int, width: int, kind: str) -> bytes:
    """Noise at several scales, about as costly to decode as a photograph."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            "the images are made with Pillow: pip install 'pretexture[dev]'"
        ) from None

    random = np.random.RandomState(seed)
    pixels = np.full((height, width, 3), 128.0)
    for cells, weight in ((4, 90), (16, 45), (64, 25), (256, 12)):
        rows = np.arange(height) * cells // height
        columns = np.arange(width) * cells // width
        noise = random.uniform(-weight, weight, (cells, cells, 3))
        pixels += noise[rows][:, columns]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    if kind == "grey":
        image.convert("L").save(file, "JPEG", quality=90)
    else:
        image.save(file, "JPEG", quality=90, subsampling=kind)
    return file.getvalue()


def _count_all(names: List[str], shard: pathlib.Path, jobs: int) -> Dict[str, Count]:
    for name in names:
        for batches in (_FEW, _MANY):
            # Every run finds the index in its own cache, and none makes it.
            records = TFRecords(shard, cache_dir=_cache(shard, name, batches) / "pretexture")
            len(records)
            if name in LATER:
                index_rows(records)
    runs = [(name, batches) for name in names for batches in (_FEW, _MANY)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(runs, pool.map(lambda run: _instructions(shard, *run), runs)))
    images = (_MANY - _FEW) * BATCH_SIZE
    return {
        name: Count(
            *((many - few) // images for few, many in zip(found[name, _FEW], found[name, _MANY]))
        )
        for name in names
    }


def _cache(shard: pathlib.Path, name: str, batches: int) -> pathlib.Path:
    """The folder for the caches of a run."""
    return shard.with_name(f"{name}-{batches}")


def _instructions(shard: pathlib.Path, name: str, batches: int) -> Count:
    """Of a whole process."""
    cache = _cache(shard, name, batches)
    out = cache / "callgrind.out"
    preset = LATER.get(name, name)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PRETEXTURE_ISA": "avx2",
        "OPENBLAS_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(cache),
    }
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    process = subprocess.run(
        [
            *valgrind,
            sys.executable,
            "-m",
            "pretexture.scripts.benchmarking.rendering",
            shard,
            preset,
            str(batches),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode != 0:
        said = [line for line in process.stderr.splitlines() if not line.startswith("==")]
        raise ValueError(f"{name} under valgrind: {said[-1] if said else 'failed'}")
    with open(out) as lines:
        costs = _costs_by_object(lines)
    core = pathlib.Path(_core.__file__).name
    return Count(sum(costs.values()), sum(n for path, n in costs.items() if path.endswith(core)))


def _costs_by_object(lines: Iterator[str]) -> Dict[str, int]:
    """Instructions by the binary that they lie in, from callgrind's output.

    A line "N cost" counts for the function named before it, unless it follows a line "calls=":
    then it repeats what the called function cost.
    """
    names: Dict[str, str] = {}
    costs: Dict[str, int] = {}
    current, repeated = "", False
    for line in lines:
        if line.startswith(("ob=", "cob=")):
            match = re.match(r"c?ob=\((\d+)\)(?: (.*))?", line)
            assert match is not None, line
            number, name = match.groups()
            if name is not None:
                names[number] = name
            if line.startswith("ob="):
                current = names[number]
        elif line.startswith("calls="):
            repeated = True
        elif line[0] in "0123456789+-*":
            if not repeated:
                costs[current] = costs.get(current, 0) + int(line.split()[1])
            repeated = False
    return costs


def _conditions() -> Dict[str, str]:
    """What the counts depend on besides the code."""
    core = pathlib.Path(_core.__file__).read_bytes()
    compilers = re.findall(rb"(?:GCC: \([^)]*\)|clang version) [0-9.]+", core)
    return {
        "machine": platform.machine(),
        "compiler": compilers[0].decode() if compilers else "unknown",
        "libjpeg": machine.libjpeg_version(),
        "libc": " ".join(platform.libc_ver()),
    }


def _keep(counts: Dict[str, Count], conditions: Dict[str, str]) -> None:
    figures = {name: count._asdict() for name, count in counts.items()}
    if KEPT.exists():
        page = json.loads(KEPT.read_text())
        if page["conditions"] == conditions:
            figures = {**page["instructions"], **figures}
    page = {"conditions": conditions, "instructions": figures}
    KEPT.write_text(json.dumps(page, indent=2) + "\n")
    for name, count in counts.items():
        print(f"{name:<14}{count.total:>14,}  of them in the core {count.core:>12,}")
    print(f"kept in {KEPT.name}")


def _compare(counts: Dict[str, Count], conditions: Dict[str, str]) -> int:
    """Prints the comparison; returns 1 if anything grew by more than the tolerance."""
    if not KEPT.exists():
        raise ValueError(f"there are no figures in {KEPT.name}; --update keeps some")
    page = json.loads(KEPT.read_text())
    differing = [
        f"{name} {conditions[name]} (kept: {kept})"
        for name, kept in page["conditions"].items()
        if conditions[name] != kept
    ]
    grown = []
    print(f"{'instructions an image':<22}{'all':>13}{'of them in the core':>32}")
    for name, count in counts.items():
        row = f"{name:<22}"
        for part, now in count._asdict().items():
            row += f"{now:>13,}"
            kept = page["instructions"].get(name, {}).get(part)
            if kept is None or differing:
                continue
            growth = now / kept - 1
            row += f"{growth:>+9.1%}{'':>10}"
            if growth > TOLERANCE:
                grown.append(f"{name} ({part}) by {growth:.1%}")
        print(row.rstrip())
    if differing:
        print(f"not compared, since the figures were kept elsewhere: {'; '.join(differing)}")
    if grown:
        print(f"grown by more than {TOLERANCE:.0%}: {', '.join(grown)}", file=sys.stderr)
        print("if that is intended, --update keeps the new figures", file=sys.stderr)
    return 1 if grown else 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--presets",
        nargs="+",
        choices=NAMES,
        default=NAMES,
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--update", action="store_true", help=f"keep the counts in {KEPT.name}; compare nothing"
    )
    parser.add_argument(
        "--jobs",
        type=flags.whole,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at a time (default: one a processor)",
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
