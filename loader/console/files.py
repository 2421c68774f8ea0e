"""Locks files, and writes them so that they are complete or do not exist."""

import contextlib
import errno
import hashlib
import os


def is_full(error: BaseException) -> bool:
    """Whether an error of Python or TensorFlow says that a disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not type(error).__module__.startswith("tensorflow."):
        return False
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def sync(path: str) -> None:
    """Waits until a file's contents have reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def digest(path: str) -> str:
    """The digest of a file's contents, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def lock(descriptor: int, shared: bool = False, wait: bool = False) -> None:
    """Locks an open file until its descriptor is closed, or this process ends, however it ends.

    Args:
        descriptor: descriptor of the file.
        shared: whether others may have shared locks at the same time.
        wait: whether to wait if another process has a lock that excludes this one.

    Raises: BlockingIOError if there is such a lock and `wait` is false; OSError if the file system
        has no locks.
    """
    import fcntl  # only here, because Windows and WebAssembly lack it

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)


def write_text(path: str, text: str) -> None:
    """Writes a text file under a temporary name, and renames it."""
    write_bytes(path, text.encode())


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file under a temporary name, and renames it."""
    beside = f"{path}.tmp"
    try:
        with open(beside, "wb") as file:
            file.write(data)
        sync(beside)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):  # frees the room that it takes
            os.remove(beside)
        error.filename = path
        raise
