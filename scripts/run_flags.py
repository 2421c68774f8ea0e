"""Flags of the commands that train or evaluate a network, and the import of TensorFlow."""

import argparse
import dataclasses
import importlib.util
import os
import sys
import tempfile
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from pretexture.loader.shards.record_options import RecordOptions
from pretexture.scripts.flags import (
    DATA,
    add_record_flags,
    add_storage_flags,
    add_traceback_flag,
    count,
    local,
    place,
    record_options,
    storage,
    whole,
)
from pretexture.trainers.engines.npu_options import DEFAULTS as NPU
from pretexture.trainers.engines.npu_options import DUMP_MODES, PRECISION_MODES, NpuOptions
from pretexture.trainers.own_data import suited
from pretexture.trainers.recipes import FIELDS, KNN, Recipe

# The fields of a recipe that linear evaluation uses, and the ones that pretraining uses.
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


# Those that decide what the features of a frozen network are.
FEATURE_FIELDS = (
    "pooling",
    "max_features",
    "combine_patches",
    "pipeline",
    "dct",
    "eval_batch_size",
)


PRETRAIN_FIELDS = tuple(
    name
    for name in FIELDS
    if name not in ("task", "pooling", "max_features", "hidden_units", "combine_patches")
)


def add_recipe_flags(parser: argparse.ArgumentParser, names: Sequence[str], title: str) -> None:
    """Adds a group of flags, one for each named field of a recipe; they are None by default."""
    group = parser.add_argument_group(title)
    for name in names:
        kind = FIELDS[name].type
        bare: Dict[str, Any] = {"nargs": "?", "const": True} if kind is bool else {}
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_PARSERS[kind],
            metavar=_METAVARS[kind],
            help=FIELDS[name].metadata["help"].replace("%", "%%"),
            **bare,
        )


def chosen_recipe(flags: argparse.Namespace, recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe, with the fields that flags set. Raises: ValueError."""
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return recipe.replace(**given)


def suited_recipe(flags: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with what --data decide and no flag does; says so. Raises: ValueError."""
    given = [name for name in FIELDS if getattr(flags, name, None) is not None]
    reading = RecordOptions(**record_options(flags))
    recipe, words = suited(recipe, given, flags.data, storage(flags), reading)
    for line in words:
        print(f"note: {line}", file=sys.stderr, flush=True)
    return recipe


def add_run_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds --data, --workdir and the other flags of a run, apart from its recipe's.

    Args:
        parser: the parser to add flags to.
        required: whether --data and --workdir must be given.
    """
    parser.add_argument("--data", required=required, type=place, metavar="DIR|URL", help=DATA)
    parser.add_argument(
        "--workdir", required=required, type=place, metavar="DIR|URL", help="the run's folder"
    )
    add_storage_flags(parser)
    add_record_flags(parser)
    parser.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="total number of training steps, instead of --epochs; 0 leaves the network untrained",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for the initial weights, the order of images and every other draw "
        "(default: 0)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=600.0,
        metavar="X",
        help="seconds between two checkpoints (default: 600)",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=whole,
        metavar="N",
        help="steps between two checkpoints, instead of seconds",
    )
    parser.add_argument(
        "--log-steps",
        type=whole,
        default=10,
        metavar="N",
        help="steps between two lines of metrics.jsonl; a line has means over them (default: 10)",
    )


def add_module_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --module and --end-points; `what` happens to the end points."""
    parser.add_argument(
        "--module",
        required=True,
        type=place,
        metavar="DIR|URL",
        help=f"the export whose end points are {what}",
    )
    parser.add_argument(
        "--end-points",
        type=_names,
        default=(),
        metavar="NAME,NAME,…",
        help=f"end points that are {what}, such as block3,block4 (default: all)",
    )


def add_feature_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how the features of a frozen network are computed."""
    add_storage_flags(parser)
    add_record_flags(parser)
    add_recipe_flags(
        parser,
        FEATURE_FIELDS,
        f"what the features are (default: --pooling {KNN.pooling}, --max-features "
        f"{KNN.max_features}, --pipeline of the export)",
    )
    add_machine_flags(parser)


def parse_run(
    parser: argparse.ArgumentParser, arguments: Optional[Sequence[str]]
) -> argparse.Namespace:
    """Parses the flags of a run; --steps and --epochs exclude each other."""
    flags = parser.parse_args(arguments)
    if flags.steps is not None and flags.epochs:
        parser.error("argument --epochs: not allowed with argument --steps")
    return flags


def run_options(flags: argparse.Namespace) -> Any:
    """The `run.Options` that flags set. Imports TensorFlow. Raises: ValueError."""
    from pretexture.trainers.run import Options

    names = [field.name for field in dataclasses.fields(Options) if hasattr(flags, field.name)]
    given = {name: getattr(flags, name) for name in names}
    records = RecordOptions(**record_options(flags))
    return Options(npu=npu_options(flags), storage=storage(flags), records=records, **given)


def interrupted(signal: int, chief: bool = True) -> int:
    """Says, once for all workers, how to resume an interrupted run; returns the exit status."""
    if chief:
        print("run the same command again to resume")
    return 128 + signal


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --threads, --device, --traceback and the flags for NPUs."""
    parser.add_argument(
        "--threads",
        type=whole,
        metavar="N",
        help="number of the loader's threads (default: one a core)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu", "npu"),
        default="auto",
        help="auto takes a GPU if there is one (default); npu is Huawei's Ascend, see "
        "https://github.com/pretexture/pretexture/blob/main/docs/ascend.md",
    )
    add_traceback_flag(parser)
    group = parser.add_argument_group("Ascend NPUs (--device npu)")
    group.add_argument(
        "--precision-mode",
        choices=PRECISION_MODES,
        default=NPU.precision_mode,
        help="precision of operations that are float32 (default: %(default)s)",
    )
    group.add_argument(
        "--iterations-per-loop",
        type=whole,
        default=NPU.iterations_per_loop,
        metavar="N",
        help="training steps that the NPU makes without the host, on TensorFlow 1.15 (default: 1)",
    )
    group.add_argument("--profiling-dir", type=local, metavar="DIR", help="folder for a profile")
    group.add_argument(
        "--dump-dir",
        type=local,
        metavar="DIR",
        help="folder for the inputs and outputs of operations",
    )
    group.add_argument("--dump-steps", metavar="N|N|…", help="steps to dump (default: all)")
    group.add_argument(
        "--dump-mode",
        choices=DUMP_MODES,
        default=NPU.dump_mode,
        help="whether inputs, outputs or both are dumped (default: %(default)s)",
    )


def add_devices_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --devices."""
    parser.add_argument(
        "--devices",
        type=whole,
        default=1,
        metavar="N",
        help="number of GPUs of this process that share each batch (default: 1); for several "
        "machines or NPUs use pretexture launch",
    )


def npu_options(flags: argparse.Namespace) -> NpuOptions:
    """The options that the flags of `add_machine_flags` set. Raises ValueError."""
    names = [field.name for field in dataclasses.fields(NpuOptions)]
    return NpuOptions(**{name: getattr(flags, name) for name in names})


def import_tensorflow() -> None:
    """Imports TensorFlow without its messages. Raises: ImportError with one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    several = os.environ.get("TF_CONFIG") or os.environ.get("RANK_SIZE", "1") != "1"
    installed = importlib.util.find_spec("tensorflow") is not None
    if installed and "tensorflow" not in sys.modules and not several:  # workers would all say it
        print("loading TensorFlow …", file=sys.stderr, flush=True)
    # C++ code writes some messages before it reads the log level, so standard error is redirected.
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
    # It warns of what its own functions call.
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text == "true"


def _names(text: str) -> List[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> Tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 15,25, not {text!r}") from None


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
