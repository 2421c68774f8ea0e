"""Paths as users write them: text, bytes or path objects, with `~`, in any encoding."""

import contextlib
import glob
import logging
import os
import tempfile
from typing import List, Union

_log = logging.getLogger("pretexture.loader")

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


def expand(path: Path) -> str:
    """The path as text; a `~` at its beginning is replaced by the home directory.

    Names that are not UTF-8 get surrogates, as everywhere in Python; `os.fsencode` restores their
    bytes.

    Raises: ValueError if there is no home directory, and no file or folder of exactly that name.
    """
    text = os.fsdecode(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise ValueError(
            f"there is no home directory for {text}; set HOME, or give an absolute path "
            "(write ./~ for a name that begins with ~)"
        )
    return expanded


def matches(pattern: str) -> List[str]:
    """The paths that a glob pattern matches, sorted by name.

    If a folder has exactly the name in the pattern, that folder is meant, so folders may have
    brackets, stars and question marks in their names.
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
    """The default folder for indexes and copies: `$XDG_CACHE_HOME/pretexture`, or in `~/.cache`.

    A process without a home directory, such as a container that runs as an unknown user, uses a
    private temporary folder and logs a warning once.
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
            "there is no home directory, so indexes and copies of shards are kept in %s; set "
            "cache_dir or XDG_CACHE_HOME to a folder that later runs can use, too",
            _temporary[0],
        )
    return _temporary[0]


def make_parent(path: str) -> str:
    """Makes the folder of a file that will be written; returns the file's path. Raises OSError."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return path


def make_private(folder: str) -> None:
    """Makes a folder and the folders above it; only this user can read those that are new."""
    folder = os.path.abspath(folder)
    if not os.path.isdir(folder):
        make_private(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
