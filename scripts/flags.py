"""Flags and error messages that all commands share."""

import argparse
import contextlib
import dataclasses
import difflib
import logging
import os
import re
import sys
import warnings
from typing import Any, Dict, Iterable, Iterator, NoReturn, Optional

from pretexture.loader import RecordError
from pretexture.loader.console.files import is_full
from pretexture.loader.console.interrupt import PromptInterrupt
from pretexture.loader.console.paths import expand
from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.imagenet import SPLITS, check_split
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, FEATURES, RecordOptions
from pretexture.loader.shards.remote import Storage, is_url


class _Parser(argparse.ArgumentParser):
    """A parser that takes --batch_size for --batch-size, and whose errors are one short line each.

    They name the flag or the value that was probably meant.
    """

    def parse_known_args(self, args=None, namespace=None):
        """Parses flags in either spelling. What follows `--` is left as it is."""
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        spelled = [self._spelled(argument) for argument in args[:end]]
        return super().parse_known_args([*spelled, *args[end:]], namespace)

    def _spelled(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        hyphens = name.replace("_", "-")
        known = self._option_string_actions
        return hyphens + equals + value if name not in known and hyphens in known else argument

    def parse_args(self, args=None, namespace=None):
        """Parses flags; those that nobody knows are an error."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [argument.partition("=")[0] for argument in unknown]
            near = [_near(name, self._option_string_actions) for name in names if name[:1] == "-"]
            hint = f"; did you mean {near[0]}?" if near and near[0] else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}; {suggestion(value, action.choices)}"
            )

    def error(self, message: str) -> NoReturn:
        """Ends the process with two lines instead of the usage, which has twenty or more."""
        self.exit(2, f"{self.prog}: error: {message}\n({self.prog} --help lists all flags)\n")


def _near(text: str, names: Iterable[str]) -> Optional[str]:
    return next(iter(difflib.get_close_matches(text, list(names), 1)), None)


def suggestion(text: str, names: Iterable[str]) -> str:
    """The one of the names that is probably meant, or else all of them, in words."""
    near = _near(str(text), map(str, names))
    return f"did you mean {near}?" if near else f"choose from {', '.join(map(str, names))}"


def parser(description: Optional[str], **options: Any) -> argparse.ArgumentParser:
    """A parser of a command's arguments.

    Args:
        description: the command's docstring, which --help shows.
        options: further arguments of `ArgumentParser`.
    """
    return _Parser(
        prog=os.path.basename(sys.argv[0]),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


# What --data is, in --help.
DATA = "folder of shards (TFRecord or WebDataset), or of class folders in train/ and val/"


def add_storage_flags(parser: argparse.ArgumentParser, data: bool = True) -> None:
    """Adds the flags that `storage` reads.

    Args:
        parser: the parser to add flags to.
        data: whether the command reads shards, which --cache-size is about.
    """
    group = parser.add_argument_group("data and runs at URLs: s3://, obs://, gs://, https://, …")
    group.add_argument(
        "--cache-dir",
        type=place,
        metavar="DIR",
        help="folder for copies and indexes (default: $XDG_CACHE_HOME/pretexture or "
        "~/.cache/pretexture)",
    )
    if data:
        group.add_argument(
            "--cache-size",
            type=_bytes,
            metavar="SIZE",
            help="space for the copies of shards, such as 200GB (default: nine tenths of the free "
            "space on the disk)",
        )
    group.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="URL of the service behind s3:// and obs:// (default: AWS_ENDPOINT_URL, or Amazon's)",
    )


def storage(flags: argparse.Namespace) -> Storage:
    """The storage that flags describe."""
    return Storage(flags.cache_dir, getattr(flags, "cache_size", None), flags.endpoint_url)


def add_record_flags(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Adds the flags that `record_options` reads; they are None by default.

    Args:
        parser: the parser to add flags to.
        default: how --help describes the defaults of the flags that results depend on; "" if they
            depend on the data.
    """
    group = parser.add_argument_group("how records are read")
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        help="what to do with a record that cannot be used: raise ends the run, skip leaves the "
        "record out and counts it (default: raise)",
    )
    group.add_argument(
        "--max-pixels",
        type=whole,
        metavar="N",
        help="largest image that is decoded, width x height; a larger one is a record that cannot "
        f"be used (default: {DEFAULT_RECORDS.max_pixels:,})",
    )
    add_feature_flags(group, default)


def add_feature_flags(parser: Any, default: str = "") -> None:
    """Adds the flags that `features` reads; they are None by default.

    Args:
        parser: the parser, or a group of its flags.
        default: see `add_record_flags`.
    """
    names = {
        "image_key": ("NAME", "feature that holds the encoded image", "image/encoded", "image"),
        "label_key": (
            "NAME",
            "feature that holds the class label, or its name in the .json files of WebDataset",
            "image/class/label",
            "label",
        ),
        "label_offset": ("N", "subtracted from labels; 0 if the labels count from 0", "1", "0"),
    }
    for name, (metavar, text, usual, tfds) in names.items():
        kinds = "TensorFlow Datasets" + ("" if name == "image_key" else " and WebDataset")
        words = default or f"{usual}, or {tfds} for shards of {kinds}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if metavar == "N" else str,
            metavar=metavar,
            help=f"{text} (default: {words})",
        )


def features(flags: argparse.Namespace) -> Dict[str, Any]:
    """The arguments of `imagenet` that the flags of `add_feature_flags` set."""
    return {name: getattr(flags, name) for name in FEATURES if getattr(flags, name) is not None}


def record_options(flags: argparse.Namespace) -> Dict[str, Any]:
    """The fields of `RecordOptions` that flags set."""
    names = [field.name for field in dataclasses.fields(RecordOptions)]
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def add_traceback_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --traceback, which `short_errors` takes."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show the traceback of an error, not just its message",
    )


def add_ray_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --ray: None if not given, "" if given without an address, else the address."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        type=_address,
        metavar="ADDRESS",
        help=f"{what}: the one at HOST:PORT, or else in RAY_ADDRESS, or else one that is started "
        "on this machine",
    )


@contextlib.contextmanager
def short_errors(traceback: bool, on_error: Optional[str] = "") -> Iterator[None]:
    """A context that turns exceptions into one line and exit status 1, without a traceback.

    In the context, what the packages log goes to standard error, and warnings take one line. Each
    line on standard output is written at once, so that redirected output keeps its order.

    Args:
        traceback: whether exceptions pass through unchanged.
        on_error: value of --on-error; "" if the command has no such flag.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    log, handler = logging.getLogger("pretexture"), logging.StreamHandler()
    handler.setFormatter(_OneLine())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    show_warning, warnings.showwarning = warnings.showwarning, _show_warning
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
        # TensorFlow's exception; TensorFlow may not be imported, so only the name is compared.
        if traceback or type(error).__name__ != "ResourceExhaustedError":
            raise
        if is_full(error):
            sys.exit(_no_space(error))
        sys.exit(f"error: the device has too little memory for this --batch-size: {error}")
    finally:
        warnings.showwarning = show_warning
        log.removeHandler(handler)


def _show_warning(message: Any, *about: Any, **more: Any) -> None:
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def _with_flags(words: str, skips: bool) -> str:
    """The message about a record that cannot be used, with the flags that may help."""
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
    """A path with `~` expanded, or a URL."""
    try:
        return text if is_url(text) else expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _split(text: str) -> str:
    """The name of a split."""
    try:
        return check_split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# How a flag for the name of a split is read and shown.
SPLIT: Any = {"type": _split, "metavar": "|".join(SPLITS)}


def local(text: str) -> str:
    """A path on this machine with `~` expanded; URLs are refused."""
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


def _first_paragraph(error: BaseException) -> str:
    return printable(" ".join(str(error).split("\n\n")[0].split()))


class _OneLine(logging.Formatter):
    """Formats each log record as one line without control characters for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
