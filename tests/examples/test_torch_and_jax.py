"""docs/examples with PyTorch, Lightning and JAX, run as users run them, on the CPU."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

EXAMPLES = os.path.join(os.path.dirname(__file__), "../../docs/examples")
NEEDED = "{} is not installed; `make test-backends` installs it"


def needs(package):
    pytest.importorskip(package, reason=NEEDED.format(package))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def data(shards):
    return os.path.dirname(shards[0])


def start(file, *arguments, launcher=(), **variables):
    command = [sys.executable, *launcher, os.path.join(EXAMPLES, file), *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, universal_newlines=True, env=environment
    )


def finish(*runs):
    """What the first of these processes says, after all have ended well."""
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs)
    return said[0]


def losses(said):
    """By step, its loss."""
    return {int(n): float(loss) for n, loss in re.findall(r"step (\d+) loss ([0-9.]+)", said)}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_rotation_continues_at_the_very_batch(data, tmp_path):
    needs("torch")
    options = ("--data", data, "--batch-size", 8, "--size", 24, "--save-every", 3, "--checkpoint")
    said = finish(start("rotation_torch.py", *options, tmp_path / "a", "--steps", 10))
    assert re.search(r"\d+ images a second; waits \d+% of the time", said)
    whole = losses(said)
    # An epoch has 4 batches, so this ends in mid-epoch.
    first = losses(finish(start("rotation_torch.py", *options, tmp_path / "b", "--steps", 6)))
    rest = losses(finish(start("rotation_torch.py", *options, tmp_path / "b", "--steps", 10)))
    assert list(first) == [1, 2, 3, 4, 5, 6] and list(rest) == [7, 8, 9, 10]
    assert {**first, **rest} == pytest.approx(whole, rel=1e-5)


def test_rotation_learns_a_few_images(write_shards, images, tmp_path):
    needs("torch")
    write_shards(tmp_path, images[:4], 1)
    options = ("--data", tmp_path, "--batch-size", 4, "--size", 24, "--steps", 120)
    options += ("--dtype", "uint8", "--checkpoint", tmp_path / "a")
    found = losses(finish(start("rotation_torch.py", *options)))
    assert sum(found[step] for step in range(1, 6)) / 5 > 1.2  # that of guessing is log 4 = 1.39
    assert sum(found[step] for step in range(101, 121)) / 20 < 0.9


def simclr(options, processes):
    """Two processes as torchrun starts them, but known to this one, so that it can kill both."""
    port = free_port()
    variables = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start("simclr_torch.py", *options, RANK=str(rank), LOCAL_RANK=str(rank), **variables)
        for rank in range(processes)
    ]


def test_simclr_in_two_processes_is_killed_and_continues_at_the_very_batch(data, tmp_path):
    needs("torch")
    options = ("--data", data, "--batch-size", 8, "--size", 24, "--threads", 1, "--steps", 11)
    options += ("--save-every", 3, "--checkpoint")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    whole = losses(finish(start("simclr_torch.py", *options, tmp_path / "a", launcher=torchrun)))
    assert list(whole) == list(range(1, 12))

    # Batches 4, 8 and 12 end an epoch, so the checkpoints at 3 and 6 are from within one.
    runs = simclr((*options, tmp_path / "b"), 2)
    before = {}
    for line in runs[0].stdout:
        before.update(losses(line))
        if 5 in before:
            break
    for run in runs:
        run.kill()
        run.communicate()
    shutil.copy(str(tmp_path / "b"), str(tmp_path / "c"))
    after = losses(finish(*simclr((*options, tmp_path / "b"), 2)))
    assert min(after) in (4, 7) and max(after) == 11
    assert {**before, **after} == pytest.approx(whole, rel=1e-5)

    # One process continues what two began: the same images in each batch, the same gradients.
    alone = losses(finish(*simclr((*options, tmp_path / "c"), 1)))
    assert list(alone) == list(after)
    assert alone == pytest.approx(after, rel=1e-3)


def test_lightning_continues_at_the_very_batch(data, tmp_path):
    needs("torch")
    needs("lightning")
    file = "lightning_datamodule.py"
    options = ("--data", data, "--batch-size", 8, "--size", 24, "--save-every", 6, "--checkpoints")
    whole = losses(finish(start(file, *options, tmp_path / "a", "--steps", 11)))
    first = losses(finish(start(file, *options, tmp_path / "b", "--steps", 6)))
    rest = losses(finish(start(file, *options, tmp_path / "b", "--steps", 11)))
    assert list(first) == [1, 2, 3, 4, 5, 6] and list(rest) == [7, 8, 9, 10, 11]
    assert {**first, **rest} == pytest.approx(whole, rel=1e-4)


ARRAYS = r"""
import importlib.util, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pretexture.loader import Loader, imagenet
spec = importlib.util.spec_from_file_location("input_jax", sys.argv[1])
input_jax = importlib.util.module_from_spec(spec)
spec.loader.exec_module(input_jax)
records = imagenet(sys.argv[2], "trainval")
make = lambda: Loader(records, "random_resized_crop(24)", 8, dtype="uint8")
assert len(jax.devices()) == 4
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
with make() as loader, make() as other:
    count = 0
    for (image, label), batch in zip(input_jax.batches(loader, sharding), other):
        assert image.shape == (8, 24, 24, 3) and image.dtype == np.uint8
        assert image.sharding == sharding and label.sharding == sharding
        assert {shard.data.shape for shard in image.addressable_shards} == {(2, 24, 24, 3)}
        for shard in image.addressable_shards:
            np.testing.assert_array_equal(shard.data, batch.image[shard.index])
        np.testing.assert_array_equal(label, batch.label)
        count += 1
    assert count == 4
print("checked")
"""


def test_jax_arrays_are_sharded_and_hold_the_loaders_batches(data):
    needs("jax")
    four = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", ARRAYS, os.path.join(EXAMPLES, "input_jax.py"), data]
    assert subprocess.check_output(command, env=four).decode().endswith("checked\n")


def test_jax_in_two_processes_and_resumed_in_one_trains_alike(data, tmp_path):
    needs("jax")
    options = ("--data", data, "--batch-size", 8, "--size", 24, "--checkpoint")
    said = finish(start("input_jax.py", *options, tmp_path / "a", "--steps", 7))
    whole = losses(said)
    assert "batch (8, 24, 24, 3)" in said
    several = ("--steps", 3, "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2)
    runs = [
        start("input_jax.py", *options, tmp_path / "b", *several, "--process", number)
        for number in range(2)
    ]
    said = finish(*runs)
    assert "batch (8, 24, 24, 3)" in said  # the global one
    first = losses(said)
    rest = losses(finish(start("input_jax.py", *options, tmp_path / "b", "--steps", 7)))
    assert list(first) == [1, 2, 3] and list(rest) == [4, 5, 6, 7]
    assert {**first, **rest} == pytest.approx(whole, rel=1e-4)


def blocks(kind):
    with open(os.path.join(EXAMPLES, "README.md"), encoding="utf-8") as file:
        return re.findall(rf"```{kind}\n(.*?)```", file.read(), re.S)


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_the_change_from_torchvision_runs(method, images, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason=NEEDED.format("torch"))
    if method == "simclr":
        (diff,) = blocks("diff")
        assert len(re.findall(r"^\+", diff, re.M)) <= 10  # a ten-line change
        program = re.sub(r"^-.*\n", "", diff, flags=re.M)
        program = re.sub(r"^[+ ]", "", program, flags=re.M)
    else:
        (program,) = blocks("python")
    for number, image in enumerate(images[:6]):
        folder = tmp_path / "imagenet" / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image)
    monkeypatch.chdir(tmp_path)
    program, count = re.subn(r"range\(100\)", "range(2)", program)
    program, changed = re.subn(r" (256|64), shard", " 3, shard", program)
    assert count == changed == 1
    seen = []
    scope = {"train": lambda *views: seen.append(views)}
    exec(program, scope)
    scope["loader"].close()
    assert len(seen) == 4
    for views in seen:
        shapes = [tuple(view.shape) for view in (views if method == "simclr" else views[0])]
        large, small = (3, 3, 224, 224), (3, 3, 96, 96)
        assert shapes == ([large] * 2 if method == "simclr" else [large] * 2 + [small] * 8)
        assert all(isinstance(v, torch.Tensor) for v in (views if method == "simclr" else views[0]))
