"""`pretexture COMMAND …`: self-supervised pretraining of vision models."""

import difflib
import importlib
import os
import sys
from typing import Callable, Dict, List, NamedTuple, Optional


class Command(NamedTuple):
    """A command of `pretexture`.

    Attributes:
        module: name of the module in `pretexture.scripts`; its `main` takes the arguments.
        help: what the command does, in one line.
    """

    module: str
    help: str

    def load(self) -> Callable[[List[str]], int]:
        """The command's `main`. Other commands and what they need are not imported."""
        return importlib.import_module(f"pretexture.scripts.{self.module}").main


COMMANDS: Dict[str, Command] = {
    "prepare": Command("prepare", "turn folders of images into TFRecord shards"),
    "index": Command("index", "make the indexes of shards before they are needed"),
    "preview": Command("preview", "draw what a network sees: images and their views"),
    "explore": Command("explore", "type a pipeline and see its views at once, on a local web page"),
    "pretrain": Command("pretrain", "pretrain a network on a pretext task"),
    "evaluate": Command("evaluate", "evaluate a run on its pretext task"),
    "export": Command("export", "write a trained network as SavedModel or frozen graph"),
    "linear-eval": Command("linear_eval", "train linear classifiers on a frozen network"),
    "knn": Command("knn", "classify by nearest neighbours on a frozen network, in seconds"),
    "features": Command("features", "write a frozen network's features to a file"),
    "runs": Command("runs", "list runs with their state, loss, accuracy and speed"),
    "plot": Command("plot", "draw the loss and the metrics of runs"),
    "launch": Command("launch", "start a command once for each device"),
    "modelarts": Command("modelarts", "pretrain as a job of Huawei's ModelArts"),
    "study": Command("study", "compare all pretext tasks by linear evaluation"),
    "benchmark": Command("benchmark", "measure the Loader against other loaders"),
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command that the first argument names; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(_version())
        return 0
    command = COMMANDS.get(name) or COMMANDS.get(name.replace("_", "-"))
    if command is None:
        print(f"pretexture: {_unknown(name)}", file=sys.stderr)
        return 2
    sys.argv[0] = f"pretexture {name}"  # how argparse names the program
    return command.load()(rest)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pretexture COMMAND [flags]",
            "",
            *lines,
            "",
            "pretexture COMMAND --help describes a command, pretexture --version says versions.",
        ]
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
    kind = "flag" if name.startswith("-") else "command"
    return f"there is no {kind} {name!r}; {hint}"


def _version() -> str:
    """The versions of this package and of what it runs on."""
    from pretexture.loader import _core
    from pretexture.scripts.benchmarking import machine

    instructions = os.environ.get("PRETEXTURE_ISA") or _core.kernels()[0]
    tensorflow = machine.version(("tensorflow", "tensorflow-cpu", "tensorflow-gpu"))
    return "\n".join(
        [
            machine.version(("pretexture",)) or "pretexture",
            f"Python {machine.description()['python']}",
            tensorflow or "TensorFlow is not installed",
            machine.libjpeg_version(),
            f"instruction set in use: {instructions}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
