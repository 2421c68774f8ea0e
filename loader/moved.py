"""Earlier import paths: modules that have moved can still be imported by their old names.

The old name gives the very same module object as the new one, so classes and state are never there
twice. Code in this package uses the new names only.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import Any, Dict, Mapping, Optional, Tuple

# By the old name within this package, the new one. The names of a module that was split are found
# in all of its parts.
MOVED: Dict[str, Tuple[str, ...]] = {
    "arguments": ("console.arguments",),
    "batch_reader": ("backends.dali.batch_reader",),
    "batch_views": ("backends.dali.batch_views",),
    "dali": ("backends.dali.backend",),
    "draws": ("epoch.draws",),
    "example_proto": ("shards.example_proto",),
    "fetch_ahead": ("shards.fetch_ahead",),
    "index": ("shards.index",),
    "json_text": ("console.json_text",),
    "limits": ("shards.limits",),
    "ops": ("language.ops",),
    "order": ("epoch.order",),
    "paths": ("console.paths",),
    "pipeline": ("language.pipeline",),
    "printable": ("console.printable",),
    "processors": ("console.processors",),
    "records": ("shards.records", "shards.imagenet"),
    "redaction": ("console.redaction",),
    "reference": ("backends.reference.renderer",),
    "reference_ops": ("backends.reference.ops",),
    "reference_records": ("backends.reference.records",),
    "remote": ("shards.remote",),
    "shard_cache": ("shards.cache",),
    "steps": ("language.steps",),
    "writer": ("shards.writer",),
}


def install(package: str, moved: Mapping[str, Tuple[str, ...]]) -> None:
    """Makes old names of modules importable.

    Args:
        package: full name of the package that had the modules.
        moved: by the old name within the package, the new name within it, or several if the
            module was split. A new name that begins with "pretexture." is a full name.
    """
    names = {
        f"{package}.{old}": tuple(
            name if name.startswith("pretexture.") else f"{package}.{name}" for name in new
        )
        for old, new in moved.items()
    }
    # Before all other finders: a submodule of a package that has moved would be found there, and
    # imported a second time.
    sys.meta_path.insert(0, _Finder(names))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Mapping[str, Tuple[str, ...]]):
        self._names = names

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname not in self._names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default."""

    def exec_module(self, module: Any) -> None:
        """Puts the module of the new name in the place of an empty one."""
        parts = [importlib.import_module(name) for name in self._names[module.__name__]]
        if len(parts) == 1:
            sys.modules[module.__name__] = parts[0]  # importlib allows it, and returns this one
            return
        for part in parts:
            module.__dict__.update(
                {name: value for name, value in vars(part).items() if not name.startswith("_")}
            )
