"""The documents as data: their code blocks, and the commands in these."""

import importlib
import pathlib
import re
import shlex
from typing import List, NamedTuple

from pretexture.scripts import modelarts, pretrain
from pretexture.scripts.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))


class Block(NamedTuple):
    """A code block: its page, the line it begins at, its language ("" if none) and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self):
        return f"{self.page}:{self.line}"


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    """The code blocks of a page in these languages, in order."""
    page_text = text(page)
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page_text, re.M | re.S):
        if match.group(1) in languages:
            line = page_text.count("\n", 0, match.start()) + 2
            found.append(Block(page, line, match.group(1), match.group(2)))
    return found


def commands(block: Block) -> List[List[str]]:
    """The words of each command of `pretexture` in a block, without "pretexture"."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"^\$ ", "", line), comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words[:1] == ["python"] and words[1:2] and words[1].startswith("scripts/"):
            words = ["pretexture", words[1][len("scripts/") : -len(".py")], *words[2:]]
        if words[:1] == ["pretexture"]:
            found.append(words[1:])
    return found


def parser(name):
    """The parser of a command of `pretexture`."""
    return importlib.import_module(f"pretexture.scripts.{COMMANDS[name].module}")._parser()


def parse(words):
    """Parses a command as it is parsed when it runs. A `…` stands for the flags that it needs.

    Raises: AssertionError, SystemExit.
    """
    name, rest = words[0].replace("_", "-"), [re.sub("HOST:PORT", "HOST:1", x) for x in words[1:]]
    assert name in COMMANDS or name in ("--help", "--version"), name
    if name not in COMMANDS or "--help" in rest:
        return
    if rest[-1:] == ["…"]:
        rest[-1:] = ["--data", "DIR", "--workdir", "DIR"]
    if name == "modelarts":
        args, unknown = parser(name).parse_known_args(rest)
        url = ["--data", args.data_url, "--workdir", args.train_url]
        known, ignored = modelarts._known([args.recipe, *url], unknown)
        assert not ignored, f"pretrain does not know {ignored}"
        pretrain._parser().parse_args([args.recipe, *url, *known])
        return
    args = parser(name).parse_args(rest)
    if name == "launch":
        inner = args.command[1:]
        if inner[0] in COMMANDS:
            parse(inner)
