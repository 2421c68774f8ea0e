"""The manifest of a conversion: what makes it possible to resume one that was interrupted.

A hidden JSON file beside the shards. Before a shard is written the manifest has its signature,
which says that the shard is one of this conversion; afterwards it has the shard's counts, which say
that the shard is complete.
"""

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple

from ..console.files import write_text
from ..console.json_text import parse_object
from .image_folder import Entry
from .workers import Shard, Written

NAME = ".prepare.json"


class Unusable(NamedTuple):
    """An image that cannot be used, as it was when that was found.

    Attributes:
        size: size of the file, bytes.
        modified: time of its last change, nanoseconds since the epoch.
        reason: what is wrong with it; names the file.
    """

    size: int
    modified: int
    reason: str


class Manifest:
    """The manifest in a folder of shards, as an earlier conversion left it.

    Args:
        folder: folder of the shards; it need not have a manifest yet.

    Raises: ValueError if the manifest is damaged; OSError.
    """

    def __init__(self, folder: str):
        self.path = os.path.join(folder, NAME)
        self._contents: Dict[str, Any] = {}
        try:
            with open(self.path, "rb") as file:
                self._contents = parse_object(file.read(), self.path)
            self._contents["shards"].items()
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); remove it") from None

    def unusable(self, entries: Mapping[str, Entry]) -> Dict[str, Unusable]:
        """The images that the shards were planned without, by name, if they have not changed.

        Args:
            entries: the images that are there now, by name.
        """
        noted = {n: Unusable(*note) for n, note in self._contents.get("unusable", {}).items()}
        return {
            name: note
            for name, note in noted.items()
            if name in entries
            and (entries[name].size, entries[name].modified) == (note.size, note.modified)
        }

    def begun(self, planned: Mapping[str, Shard]) -> List[str]:
        """The file names of planned shards that an earlier conversion wrote or began to write."""
        return [
            name
            for name, entry in self._contents.get("shards", {}).items()
            if name in planned and entry["signature"] == planned[name].signature
        ]

    def complete(self, planned: Mapping[str, Shard]) -> Dict[str, Written]:
        """The planned shards that need not be written again, by file name.

        Their files exist and have the size that the manifest says.
        """
        found = {}
        for name in self.begun(planned):
            entry, shard = self._contents["shards"][name], planned[name]
            counts = Written(**entry["written"]) if entry["written"] else None
            if (
                counts
                and (shard.skip or not counts.skipped)
                and os.path.exists(shard.path)
                and os.path.getsize(shard.path) == counts.bytes
            ):
                found[name] = counts
        return found

    def save(
        self,
        planned: Mapping[str, Shard],
        written: Mapping[str, Written],
        unusable: Mapping[str, Unusable],
    ) -> None:
        """Replaces the manifest.

        Args:
            planned: all shards, by file name.
            written: the counts of those that are complete.
            unusable: the images that the shards were planned without.
        """
        entries = {
            name: {
                "signature": shard.signature,
                "written": written[name]._asdict() if name in written else None,
            }
            for name, shard in planned.items()
        }
        self._contents = {"shards": entries, "unusable": dict(unusable)}
        write_text(self.path, json.dumps(self._contents))
