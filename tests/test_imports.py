"""The arrows between modules: what may import what, read from the source without running it.

Imports inside functions count as much as those at the top of a module.
"""

import ast
import contextlib
import importlib.util
import os
import pathlib
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From low to high: a module imports modules of its own layer or of lower ones.
FOLDERS = ["permutations", "loader", "trainers", "scripts"]
LOADER_LAYERS = [
    ["console", "moved"],
    ["_core", "errors"],
    ["language", "epoch"],
    ["shards"],
    ["backends"],
    ["loader", "presets"],
    [
        "",
        "tensorflow",
        "torch",
        "prepare",
        "preview",
        "arrangement",
        "samples",
        "explore",
        "pyplot",
    ],
]
# These share a layer without knowing each other.
STRANGERS = [
    {"language", "epoch"},
    {"console", "moved"},
    {"loader", "presets"},
    {"arrangement", "samples"},
]
EXTENSION = "pretexture.loader._core"
DATA_COMMANDS = ["prepare", "index", "preview", "explore", "benchmark"]


class Module:
    """A module's source: its name, what it imports and which names it binds at its top level."""

    def __init__(self, name, source, is_package):
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self.tree = ast.parse(source)

    def imports(self):
        """Each imported module as (line, module, name in it or None)."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name, None
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = self.package.split(".")[: len(self.package.split(".")) + 1 - node.level]
                    base = ".".join([*above, base]).rstrip(".")
                for alias in node.names:
                    yield node.lineno, base, alias.name
            elif isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called == "import_module":
                    with contextlib.suppress(ValueError):  # it is not a literal
                        yield node.lineno, ast.literal_eval(node.args[0]), None

    def bound(self):
        """Names that the module defines or imports, wherever it does."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
        return found


class Graph:
    """All modules, and the arrows between them.

    Attributes:
        arrows: by module, (line, imported module of this project).
        outside: by module, (line, imported module of another project).
        unknown: "module:line: name" of each import of this project's that finds nothing.
    """

    def __init__(self, sources):
        self.modules = {
            name: Module(name, source, is_package) for name, (source, is_package) in sources.items()
        }
        self.arrows, self.outside, self.unknown = {}, {}, []
        for module in self.modules.values():
            arrows = self.arrows[module.name] = []
            outside = self.outside[module.name] = []
            for line, base, name in module.imports():
                if base.split(".")[0] != "pretexture":
                    outside.append((line, base))
                    continue
                target = self._target(base, name)
                if target is None:
                    self.unknown.append(f"{module.name}:{line}: {base} {name or ''}".rstrip())
                elif target != "pretexture":
                    arrows.append((line, target))

    def _target(self, base, name):
        if name is not None:
            inner = f"{base}.{name}"
            if inner in self.modules or inner == EXTENSION:
                return inner
        if base in ("pretexture", EXTENSION):
            return base
        if base in self.modules and (name is None or name in self.modules[base].bound()):
            return base
        # Folders without an __init__.py are packages, too.
        is_folder = any(other.startswith(f"{base}.") for other in self.modules)
        return base if is_folder and base not in self.modules and name is None else None

    def reached(self, start):
        """By module that `start` needs to run, the module that imports it."""
        found, waiting = {start: None}, [start]
        while waiting:
            name = waiting.pop()
            targets = [target for _, target in self.arrows.get(name, ())]
            for target in [*targets, *_parents(name)]:
                if target not in found:
                    found[target] = name
                    waiting.append(target)
        return found

    def cycles(self):
        """Sets of modules that import each other in a circle (Tarjan, 1972)."""
        index, low, stack, on_stack, found = {}, {}, [], set(), []

        def visit(name):
            index[name] = low[name] = len(index)
            stack.append(name)
            on_stack.add(name)
            for _, target in self.arrows.get(name, ()):
                if target not in index:
                    visit(target)
                    low[name] = min(low[name], low[target])
                elif target in on_stack:
                    low[name] = min(low[name], index[target])
            if low[name] == index[name]:
                circle = set()
                while name not in circle:
                    circle.add(stack.pop())
                on_stack.difference_update(circle)
                if len(circle) > 1 or any(
                    target == name for _, target in self.arrows.get(name, ())
                ):
                    found.append(sorted(circle))

        for name in self.modules:
            if name not in index:
                visit(name)
        return found


def _parents(name):
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(2, len(parts))]


def _sources():
    sources = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            name = ".".join(["pretexture", *(parts[:-1] if is_package else parts)])
            sources[name] = (path.read_text(encoding="utf-8"), is_package)
    return sources


def _folder(name):
    return name.split(".")[1]


def _room(name):
    """The file or folder of `loader` that a module belongs to; "" for its __init__."""
    return [*name.split("."), ""][2]


def _layer(room):
    (layer,) = [number for number, rooms in enumerate(LOADER_LAYERS) if room in rooms]
    return layer


def wrong_arrows(graph):
    """Each arrow that points upwards, as "module:line imports module"."""
    wrong = []
    for name, arrows in graph.arrows.items():
        for line, target in arrows:
            upwards = FOLDERS.index(_folder(target)) > FOLDERS.index(_folder(name))
            if _folder(name) == _folder(target) == "loader":
                rooms = {_room(name), _room(target)}
                upwards = _layer(_room(target)) > _layer(_room(name))
                upwards = upwards or rooms in STRANGERS
            if upwards:
                wrong.append(f"{name}:{line} imports {target}")
    return wrong


def is_of_python(name):
    """Whether a module belongs to Python's standard library."""
    top = name.split(".")[0]
    if top in sys.builtin_module_names:
        return True
    spec = importlib.util.find_spec(top)
    where = os.path.realpath((spec and spec.origin) or "")
    if where.endswith("frozen") or not (spec and spec.origin):
        return spec is not None and spec.origin == "frozen"
    library = os.path.realpath(sysconfig.get_paths()["stdlib"])
    return where.startswith(library) and "site-packages" not in where


@pytest.fixture(scope="module")
def graph():
    return Graph(_sources())


def test_every_import_names_a_module_by_its_present_name(graph):
    assert len(graph.modules) > 100
    assert not graph.unknown


def test_no_arrow_points_upwards(graph):
    assert not wrong_arrows(graph)


def test_no_modules_import_each_other_in_a_circle(graph):
    assert not graph.cycles()


def test_the_console_needs_pythons_library_alone(graph):
    for name, outside in graph.outside.items():
        if _folder(name) == "loader" and _room(name) in LOADER_LAYERS[0]:
            assert not [module for _, module in outside if not is_of_python(module)], name


def test_only_the_adapter_imports_tensorflow(graph):
    frameworks = {"tensorflow", "keras", "npu_bridge", "npu_device"}
    importing = {
        name
        for name, outside in graph.outside.items()
        if _folder(name) in ("loader", "permutations")
        and any(module.split(".")[0] in frameworks for _, module in outside)
    }
    assert importing == {"pretexture.loader.tensorflow"}


@pytest.mark.parametrize("command", DATA_COMMANDS)
def test_commands_about_data_reach_at_most_the_recipes(graph, command):
    reached = graph.reached(f"pretexture.scripts.{command}")
    trainers = {name for name in reached if _folder(name) == "trainers"}
    # preview draws the views of a recipe. Recipes are plain data, which need no TensorFlow.
    recipes = {f"pretexture.trainers{name}" for name in ("", ".moved", ".recipes")}
    assert trainers == (recipes if command == "preview" else set())


# The checks themselves, on modules that break the rules.


def _with(**sources):
    named = {f"pretexture.{name.replace('__', '.')}": source for name, source in sources.items()}
    return Graph({name: (source, False) for name, source in named.items()})


@pytest.mark.parametrize(
    "bad",
    [
        {"loader__epoch__a": "from ..shards import b", "loader__shards__b": ""},
        {"loader__language__a": "from ..epoch.b import c", "loader__epoch__b": "c = 1"},
        {"loader__shards__a": "def f():\n    from ..backends import b", "loader__backends__b": ""},
        {"loader__console__a": "from .. import _core"},
        {"loader__loader": "import pretexture.trainers.a", "trainers__a": ""},
        {"permutations__a": "import importlib\nimportlib.import_module('pretexture.loader.errors')",
         "loader__errors": ""},
    ],
)  # fmt: skip
def test_an_arrow_that_points_upwards_is_found(bad):
    assert len(wrong_arrows(_with(**bad))) == 1


def test_a_circle_is_found_though_one_import_is_inside_a_function():
    sources = {
        "trainers__a": "h = 1\nfrom . import b",
        "trainers__b": "def f():\n    from .c import g",
        "trainers__c": "from .a import h\ng = 1",
        "trainers__d": "from . import a",
    }
    circle = [f"pretexture.trainers.{name}" for name in "abc"]
    assert _with(**sources).cycles() == [circle]
    assert not _with(**{**sources, "trainers__c": "g = 1"}).cycles()


def test_an_earlier_name_of_a_module_is_found():
    graph = Graph(
        {
            "pretexture.loader": ("", True),
            "pretexture.loader.epoch.order": ("", False),
            "pretexture.loader.a": ("from .order import record_at\nfrom . import order", False),
        }
    )
    assert len(graph.unknown) == 2
