"""Modules that have moved are the same modules by their earlier names."""

import importlib
import subprocess
import sys

import pytest
from pretexture.loader import moved

# What the documentation and the examples of earlier versions named, by the module that had it.
LOADER = {
    "draws": ["Draws", "philox", "inception_crop", "permute"],
    "example_proto": ["Example", "example", "parse_example"],
    "index": ["Index", "read_index"],
    "limits": ["MAX_PIXELS"],
    "ops": ["METHODS", "COORDS", "Crop", "InceptionCrop", "Op", "Patches", "Resize", "Rotate"],
    "order": ["WindowShuffle", "record_at", "records_at"],
    "pipeline": ["Pipeline", "Plan"],
    "records": ["DATASET", "Record", "TFRecords", "imagenet"],
    "redaction": ["redacted"],
    "reference": ["Renderer"],
    "remote": ["FetchError", "MissingError", "Remote", "RemoteFile", "Storage", "is_url"],
    "shard_cache": ["ShardCache"],
    "steps": ["STEPS", "CenterCrop", "Crop", "Flip", "Gray", "Inception", "Jigsaw", "Normalize"],
    "writer": ["TFRecordWriter", "example", "parse_example"],
}
TRAINERS = {
    "checkpoints": ["Checkpoints"],
    "export": ["ExportError", "export_run"],
    "layers": ["BatchNorm", "Conv", "Scope"],
    "linear": ["Results", "linear_eval"],
    "metrics": ["read_metrics"],
    "models": ["build"],
    "models.resnet": ["ResNet50"],
    "models.revnet": ["RevNet50"],
    "models.vgg": ["VGG19"],
    "npu_options": ["NpuOptions"],
    "record_options": ["RecordOptions"],
    "representation": ["Representation"],
}


def _check(package, table, named):
    for old, new in table.items():
        names = [name if name.startswith("pretexture.") else f"{package}.{name}" for name in new]
        try:
            parts = [importlib.import_module(name) for name in names]
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name in names:
                raise
            continue  # it needs a package that is not installed
        module = importlib.import_module(f"{package}.{old}")
        if len(parts) == 1:
            assert module is parts[0]
        for name in named.get(old, ()):
            assert any(getattr(module, name) is vars(part).get(name) for part in parts), (old, name)


def test_the_loaders_modules_are_found_by_their_earlier_names():
    assert set(LOADER) <= set(moved.MOVED)
    _check("pretexture.loader", moved.MOVED, LOADER)


def test_the_trainers_modules_are_found_by_their_earlier_names():
    pytest.importorskip("tensorflow")
    from pretexture.trainers.moved import MOVED

    assert set(TRAINERS) <= set(MOVED)
    _check("pretexture.trainers", MOVED, TRAINERS)


def test_every_form_of_import_gives_the_module_itself_and_only_once():
    program = """
import sys
import pretexture.loader.order
from pretexture.loader.order import WindowShuffle
from pretexture.loader import order as first
import pretexture.loader.epoch.order as second
assert pretexture.loader.order is first is second, (first, second)
assert second.WindowShuffle is WindowShuffle is pretexture.loader.WindowShuffle
assert second.__name__ == "pretexture.loader.epoch.order"
from pretexture.loader.records import TFRecords, imagenet
assert (TFRecords, imagenet) == (pretexture.loader.TFRecords, pretexture.loader.imagenet)
modules = {id(m): m.__file__ for n, m in sys.modules.items()
           if n.startswith("pretexture.") and getattr(m, "__file__", None)}
assert len(set(modules.values())) == len(modules), sorted(modules.values())
try:
    import pretexture.loader.nothing
except ModuleNotFoundError as error:
    assert error.name == "pretexture.loader.nothing"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)
