"""docs/troubleshooting.md and the messages in the sources agree, in both directions."""

import ast
import re

import pages
import pytest

PAGE = pages.text("docs/troubleshooting.md")
# The first cells of the tables, and in them the messages.
QUOTED = [
    (message, number)
    for number, line in enumerate(PAGE.splitlines(), 1)
    if line.startswith("| `")
    for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
]
# Messages that no user can meet, or that belong to tools for those who change Pretexture.
NOT_FOR_USERS = ("scripts/bench_instructions.py", "permutations/algebra.py")
INTERNAL = {
    # An index or a cached list is rebuilt, with one warning that is on the page.
    "loader/shards/index.py": ["it ", "its "],
    "loader/shards/image_folder.py": ["it ", "its ", "a file has an impossible size"],
    "loader/shards/webdataset.py": ["its records "],
    # Plumbing whose own message is another one.
    "loader/prepare/ray_cluster.py": ["a worker process was killed"],
    "loader/prepare/__init__.py": ["module "],
    "loader/shards/cache.py": ["closed while a shard was waited for"],
    "loader/shards/remote.py": ["the last attempt returns or raises"],
    # The names of what must, such as "epochs must be above 0, not 0", are the field's.
    "trainers/recipes.py": ["… must …, not …"],
    "trainers/engines/devices.py": ["… cannot be used", "there is no task ", "… is not HOST:PORT"],
    "scripts/benchmarking/comparison.py": ["at … … makes …, … …"],
}


def _fixed(node):
    """What an expression says, with `…` for what is only known when it runs; None if nothing is."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[-.\d]*[sdrf]", "…", node.value)
    if type(node).__name__ == "Str":  # Python 3.7
        return re.sub(r"%[-.\d]*[sdrf]", "…", node.s)
    if isinstance(node, ast.JoinedStr):
        return "".join(_fixed(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_fixed(node.left) or "…") + (_fixed(node.right) or "…")
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        return re.sub(r"{[^}]*}", "…", _fixed(node.func.value) or "…")
    return None


def _sources():
    for folder in ("loader", "permutations", "trainers", "scripts"):
        for path in sorted((pages.ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(pages.ROOT)), path.read_text(encoding="utf-8")


def _python_texts():
    """Every text in the sources, with its file and whether it is raised or warned of."""
    found = []
    for name, source in _sources():
        said = set()
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                arguments = node.exc.args
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                *("warn", "warning", "error"),
            ):
                arguments = node.args
            else:
                continue
            said.update(id(argument) for argument in arguments)
        for node in ast.walk(tree):
            text = _fixed(node)
            if text:
                found.append((name, text, id(node) in said))
    return found


def _other_texts():
    """Literals in C++ and CMake, joined if they stand side by side."""
    found = []
    paths = [*pages.ROOT.glob("csrc/*.cc"), *pages.ROOT.glob("csrc/*.h")]
    paths += [pages.ROOT / "CMakeLists.txt", pages.ROOT / "scripts" / "system_packages.sh"]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'"\s*\n\s*"', "", text)  # one literal on several lines
        literals = re.findall(r'"((?:[^"\\\n]|\\.)*)"', text)
        found += [literal.replace("$group", "…") for literal in literals]
        found.append("…".join(literals))
    return found


PYTHON = _python_texts()
OTHER = _other_texts()


def _pattern(message):
    """A regular expression for the message in a source, in which other `…` may stand."""
    message = message.replace("--…", "…")
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip(" ():;,.")]
    return re.compile(".*?".join(pieces), re.S)


@pytest.mark.parametrize("message, line", QUOTED, ids=[f"line-{line}" for _, line in QUOTED])
def test_a_message_on_the_page_is_in_the_source(message, line):
    pattern = _pattern(message)
    texts = [text for _, text, _ in PYTHON] + OTHER
    assert pattern.pattern, f"line {line}: {message} says nothing"
    assert any(pattern.search(text) for text in texts), f"line {line}: {message}"


def _longest(message):
    return max((piece.strip() for piece in message.split("…")), key=len)


def test_every_message_of_the_sources_is_on_the_page():
    patterns = [_pattern(message) for message, _ in QUOTED if len(_longest(message)) > 5]
    missing = []
    for name, text, said in PYTHON:
        fixed = re.sub(r"[…\W]+", "", text)
        if not said or len(fixed) < 6 or name in NOT_FOR_USERS:
            continue
        if any(text.startswith(start) for start in INTERNAL.get(name, ())):
            continue
        if not any(pattern.search(text) for pattern in patterns):
            missing.append(f"{name}: {text}")
    assert not missing, "\n".join(missing)


def test_a_message_that_is_in_no_source_is_found():
    texts = [text for _, text, _ in PYTHON] + OTHER
    assert not any(_pattern("the … is out of cheese").search(text) for text in texts)
