"""What the command lines share: recipe flags, TensorFlow without chatter, errors in one line."""

import argparse
import contextlib
import dataclasses
import logging
import os
import re
import sys
import tempfile
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from pretexture.loader import RecordError
from pretexture.loader.console.files import is_full
from pretexture.loader.console.interrupt import PromptInterrupt
from pretexture.loader.console.paths import expand
from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.remote import Storage, is_url
from pretexture.trainers.engines.npu_options import DEFAULTS as NPU
from pretexture.trainers.engines.npu_options import DUMP_MODES, PRECISION_MODES, NpuOptions
from pretexture.trainers.recipes import Recipe
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, FEATURES, RecordOptions

# The fields of a recipe that linear evaluation reads, and those that pretraining does.
LINEAR_FIELDS = (
    "num_classes",
    "pooling",
    "max_features",
    "hidden_units",
    "combine_patches",
    "pipeline",
    "dct",
    "batch_size",
    "eval_batch_size",
    "epochs",
    "train_split",
    "eval_split",
    "optimizer",
    "lr",
    "lr_scale_batch_size",
    "warmup_epochs",
    "decay_epochs",
    "lr_decay_factor",
    "weight_decay",
)
PRETRAIN_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("task", "pooling", "max_features", "hidden_units", "combine_patches")
)


def add_recipe_flags(parser: argparse.ArgumentParser, names: Sequence[str], title: str) -> None:
    """Adds flags for some fields of a recipe, None by default, in a group with a title."""
    group = parser.add_argument_group(title)
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for name in names:
        bare: Dict[str, Any] = {"nargs": "?", "const": True} if fields[name].type is bool else {}
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_PARSERS[fields[name].type],
            metavar=_METAVARS[fields[name].type],
            help=fields[name].metadata["help"].replace("%", "%%"),
            **bare,
        )


def chosen_recipe(flags: argparse.Namespace, recipe: Recipe, names: Sequence[str]) -> Recipe:
    """A recipe with the fields that flags set. Raises ValueError."""
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return dataclasses.replace(recipe, **given)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --data, --workdir and what a run needs to know besides its recipe."""
    parser.add_argument(
        "--data", required=True, type=place, metavar="DIR|URL", help="folder of shards"
    )
    parser.add_argument(
        "--workdir", required=True, type=place, metavar="DIR|URL", help="the run's folder"
    )
    add_storage_flags(parser)
    add_record_flags(parser)
    parser.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="in all, instead of --epochs; 0 for a network that is not trained",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the initial weights, the order of images and all other draws (default: 0)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=600.0,
        metavar="X",
        help="between two checkpoints (default: 600)",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=whole,
        metavar="N",
        help="between two checkpoints, instead of seconds",
    )
    parser.add_argument(
        "--log-steps",
        type=whole,
        default=10,
        metavar="N",
        help="between two lines of metrics.jsonl, which are means over these steps (default: 10)",
    )


def parse_run(
    parser: argparse.ArgumentParser, arguments: Optional[Sequence[str]]
) -> argparse.Namespace:
    """Parses the flags of a run, of whose length only one may speak."""
    flags = parser.parse_args(arguments)
    if flags.steps is not None and flags.epochs:
        parser.error("argument --epochs: not allowed with argument --steps")
    return flags


def run_options(flags: argparse.Namespace) -> Any:
    """The `run.Options` that flags set; imports TensorFlow. Raises ValueError."""
    from pretexture.trainers.run import Options

    names = [field.name for field in dataclasses.fields(Options) if hasattr(flags, field.name)]
    given = {name: getattr(flags, name) for name in names}
    records = RecordOptions(**record_options(flags))
    return Options(npu=npu_options(flags), storage=storage(flags), records=records, **given)


def interrupted(signal: int, chief: bool = True) -> int:
    """Says how an interrupted run goes on, once for all workers; returns the exit status."""
    if chief:
        print("the same command goes on with it")
    return 128 + signal


def add_storage_flags(parser: argparse.ArgumentParser, data: bool = True) -> None:
    """Adds what `storage` takes; without `data` no --cache-size, which is about shards."""
    group = parser.add_argument_group("data and runs at URLs: s3://, obs://, gs://, https://, …")
    group.add_argument(
        "--cache-dir",
        type=place,
        metavar="DIR",
        help="for copies and indexes (default: $XDG_CACHE_HOME/pretexture or ~/.cache/pretexture)",
    )
    if data:
        group.add_argument(
            "--cache-size",
            type=_bytes,
            metavar="SIZE",
            help="that the copies of shards may take, such as 200GB (default: nine tenths of what "
            "the disk has free)",
        )
    group.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="of the service that s3:// and obs:// mean (default: AWS_ENDPOINT_URL, or Amazon's)",
    )


def storage(flags: argparse.Namespace) -> Storage:
    """The storage that flags describe."""
    return Storage(flags.cache_dir, getattr(flags, "cache_size", None), flags.endpoint_url)


def add_record_flags(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Adds what `record_options` takes, None by default.

    Args:
        parser: to add flags to.
        default: how the help describes the default of a flag on which results depend; "" if it
            depends on the data.
    """
    group = parser.add_argument_group("how records are read")
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        help="what happens at a record that cannot be used: raise ends the run, skip leaves it out "
        "and counts it (default: raise)",
    )
    group.add_argument(
        "--max-pixels",
        type=whole,
        metavar="N",
        help="largest image that is decoded, width x height; a larger one is a record that cannot "
        f"be used (default: {DEFAULT_RECORDS.max_pixels:,})",
    )
    names = {
        "image_key": ("NAME", "feature that holds the encoded image", "image/encoded", "image"),
        "label_key": ("NAME", "feature that holds the class label", "image/class/label", "label"),
        "label_offset": ("N", "subtracted from labels; 0 if the labels count from 0", "1", "0"),
    }
    for name, (metavar, text, usual, tfds) in names.items():
        words = default or f"{usual}, or {tfds} for shards of TensorFlow Datasets"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if metavar == "N" else str,
            metavar=metavar,
            help=f"{text} (default: {words})",
        )


def record_options(flags: argparse.Namespace) -> Dict[str, Any]:
    """The fields of `RecordOptions` that flags set."""
    names = [field.name for field in dataclasses.fields(RecordOptions)]
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --threads, --device, --traceback and what an NPU asks for."""
    parser.add_argument(
        "--threads", type=whole, metavar="N", help="of the loader (default: one a core)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu", "npu"),
        default="auto",
        help="auto takes a GPU where there is one (default); npu is Huawei's Ascend, see "
        "docs/ascend.md",
    )
    add_traceback_flag(parser)
    group = parser.add_argument_group("how an Ascend NPU runs (--device npu)")
    group.add_argument(
        "--precision-mode",
        choices=PRECISION_MODES,
        default=NPU.precision_mode,
        help="what it makes of float32 operations (default: %(default)s)",
    )
    group.add_argument(
        "--iterations-per-loop",
        type=whole,
        default=NPU.iterations_per_loop,
        metavar="N",
        help="training steps between two looks of the host, on TensorFlow 1.15 (default: 1)",
    )
    group.add_argument(
        "--profiling-dir", type=local, metavar="DIR", help="where it writes a profile"
    )
    group.add_argument(
        "--dump-dir",
        type=local,
        metavar="DIR",
        help="where it writes what operations take and give",
    )
    group.add_argument("--dump-steps", metavar="N|N|…", help="which steps (default: all)")
    group.add_argument(
        "--dump-mode",
        choices=DUMP_MODES,
        default=NPU.dump_mode,
        help="what of an operation (default: %(default)s)",
    )


def add_devices_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --devices."""
    parser.add_argument(
        "--devices",
        type=whole,
        default=1,
        metavar="N",
        help="GPUs of this machine that share each batch (default: 1); for several machines or "
        "NPUs see scripts/launch.py",
    )


def npu_options(flags: argparse.Namespace) -> NpuOptions:
    """The options that the flags of `add_machine_flags` set. Raises ValueError."""
    names = [field.name for field in dataclasses.fields(NpuOptions)]
    return NpuOptions(**{name: getattr(flags, name) for name in names})


def add_traceback_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --traceback, which `short_errors` takes."""
    parser.add_argument(
        "--traceback", action="store_true", help="where an error comes from, not just its message"
    )


def add_ray_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --ray, which is None, "" without an address, or the address."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        type=_address,
        metavar="ADDRESS",
        help=f"{what}: that at HOST:PORT or in RAY_ADDRESS, or else one that is started on this "
        "machine",
    )


@contextlib.contextmanager
def short_errors(traceback: bool, on_error: Optional[str] = "") -> Iterator[None]:
    """Ends the process with a line and status 1 instead of an exception's traceback.

    Meanwhile what the packages log goes to standard error.

    Args:
        traceback: let exceptions pass.
        on_error: the value of --on-error; "" for a command without that flag.
    """
    log, handler = logging.getLogger("pretexture"), logging.StreamHandler()
    handler.setFormatter(_OneLine())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with PromptInterrupt():
            yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if traceback:
            raise
        if is_full(error):
            sys.exit(_no_space(error))
        words = _first_paragraph(error)
        if isinstance(error, RecordError) and on_error != "":
            words = _with_flags(words, on_error == "skip")
        sys.exit(f"error: {redacted(words)}")
    except MemoryError as error:
        if traceback:
            raise
        sys.exit(
            f"error: not enough memory ({str(error) or 'MemoryError'}): lower --batch-size, "
            "--threads or --max-pixels"
        )
    except Exception as error:
        # TensorFlow's own, which may not be named before it is imported.
        if traceback or type(error).__name__ != "ResourceExhaustedError":
            raise
        if is_full(error):
            sys.exit(_no_space(error))
        sys.exit(f"error: the device has too little memory for this --batch-size: {error}")
    finally:
        log.removeHandler(handler)


def _with_flags(words: str, skips: bool) -> str:
    """The words about a record that cannot be used, with the flags that may mend it."""
    for name in ("max_pixels", *FEATURES):
        words = words.replace(f"{name}=", f"--{name.replace('_', '-')}=")
    if "has no feature" in words:
        return f"{words}; --image-key and --label-key name the features"
    if "label" in words:
        return words
    if skips:
        return words
    return f"{words}; --on-error skip leaves out records that cannot be used, and counts them"


def _no_space(error: Exception) -> str:
    name = getattr(error, "filename", None)
    name = printable(os.fsdecode(name)) if name else _first_paragraph(error)
    return f"error: no space left on the device: {name}; make room, and run the same command again"


def import_tensorflow() -> None:
    """Imports TensorFlow without what it says about itself. Raises ImportError in one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Some of it is written by C++ before any log level counts, so standard error is moved away.
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                f"TensorFlow cannot be imported ({error}): pip install 'pretexture[tensorflow]'"
            ) from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    if tf.__version__.startswith("1."):  # which warns of what its own functions call
        tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)


def whole(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def count(text: str) -> int:
    """A whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value


def place(text: str) -> str:
    """A path, in which `~` is expanded, or a URL."""
    try:
        return text if is_url(text) else expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local(text: str) -> str:
    """A path on this machine, in which `~` is expanded; URLs are refused."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"must be a path on this machine, not {redacted(text)}")
    return place(text)


def _address(text: str) -> str:
    if not re.fullmatch(r"([^/:]+:\d+)?", text):
        raise argparse.ArgumentTypeError(f"an address is HOST:PORT, not {text!r}")
    return text


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B?", text)
    if not match or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"must be a size such as 200GB, not {text!r}")
    power = " kMGT".index(match.group(2) or " ")
    return int(float(match.group(1)) * (1024 if match.group(3) else 1000) ** power)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text == "true"


def _numbers(text: str) -> Tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 15,25, not {text!r}") from None


def _first_paragraph(error: BaseException) -> str:
    return printable(" ".join(str(error).split("\n\n")[0].split()))


class _OneLine(logging.Formatter):
    """Formats what is logged in one line, with nothing in it that a terminal might obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


_PARSERS: Dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: _truth,
    Tuple[float, ...]: _numbers,
}
_METAVARS: Dict[Any, str] = {
    str: "TEXT",
    int: "N",
    float: "X",
    bool: "true|false",
    Tuple[float, ...]: "X,X,…",
}
