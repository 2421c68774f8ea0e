"""Paths as users give them: text, bytes or path objects, with `~`, in any encoding."""

import contextlib
import glob
import logging
import os
import tempfile
from typing import List, Union

_log = logging.getLogger("pretexture.loader")

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


def expand(path: Path) -> str:
    """The path as text, with a `~` at its beginning replaced by the home directory.

    Names that are not UTF-8 come out with surrogates, as everywhere in Python; `os.fsencode` gives
    their bytes back.

    Raises: ValueError if there is no home directory, and no file or folder of that very name.
    """
    text = os.fsdecode(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise ValueError(
            f"there is no home directory for {text}; set HOME, or give the path from / on "
            "(a name that begins with ~ is written ./~)"
        )
    return expanded


def matches(pattern: str) -> List[str]:
    """What a glob pattern matches, sorted by name.

    Folders that exist under the very name that the pattern gives are taken by that name, so that
    brackets, stars and question marks in the name of a folder do no harm.
    """
    if os.path.exists(pattern):
        return [pattern]
    folder, rest = os.path.split(pattern)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
        if not name:  # the root
            break
        rest = os.path.join(name, rest)
    literal = os.path.join(glob.escape(folder), rest) if folder else rest
    return sorted(glob.glob(literal)) or sorted(glob.glob(pattern))


_temporary: List[str] = []


def cache_folder() -> str:
    """The default folder for indexes and copies: `$XDG_CACHE_HOME/pretexture` or in `~/.cache`.

    A process without a home directory (as in a container that runs under an unknown user number)
    uses a private temporary folder, and says so once.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if not root:
        home = os.path.expanduser("~")
        if os.path.isabs(home):
            root = os.path.join(home, ".cache")
    if root:
        return os.path.join(expand(root), "pretexture")
    if not _temporary:
        _temporary.append(tempfile.mkdtemp(prefix="pretexture-"))
        _log.warning(
            "there is no home directory, so that indexes and copies of shards are kept in %s; give "
            "cache_dir, or set XDG_CACHE_HOME, for a folder that later runs find again",
            _temporary[0],
        )
    return _temporary[0]


def make_parent(path: str) -> str:
    """Makes the folder that a file is to be written in; returns the file's path. Raises OSError."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return path


def make_private(folder: str) -> None:
    """Makes a folder, and those above it; what is new can be read by this user alone."""
    folder = os.path.abspath(folder)
    if not os.path.isdir(folder):
        make_private(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
