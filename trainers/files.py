"""Writing files so that they are whole or not there."""

import os


def sync(path: str) -> None:
    """Makes sure that a file's contents have reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_text(path: str, text: str) -> None:
    """Writes a text file beside `path` and renames it."""
    beside = f"{path}.tmp"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
    sync(beside)
    os.replace(beside, path)
