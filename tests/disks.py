"""Small disks, and filling them."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def mounted(folder, size):
    """An empty disk of `size` bytes at `folder`; skips the test if this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.call(mount, stderr=subprocess.DEVNULL):
        pytest.skip("mounting a file system is not permitted")
    try:
        yield folder
    finally:
        subprocess.check_call(["umount", "--lazy", str(folder)])


def fill(disk):
    """Takes all the room that is left."""
    with open(disk / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def make_room(disk):
    """Undoes `fill`."""
    (disk / "filler").unlink()
