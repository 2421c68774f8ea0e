"""Conversion and feature extraction on a real Ray cluster, whose workers are sometimes killed."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it is imported
pytest.importorskip("ray")
pytest.importorskip("PIL")
pytest.importorskip("google.protobuf")

from PIL import Image
from pretexture.loader.prepare import ray_cluster as cluster
from pretexture.loader.prepare import workers
from pretexture.scripts import prepare
from pretexture.trainers.transfer import extraction
from ray.cluster_utils import Cluster


@pytest.fixture(scope="module", autouse=True)
def address():
    """The address of a Ray cluster of one node with two processors."""
    node = {"num_cpus": 2, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=node)
    yield started.address
    started.shutdown()


@pytest.fixture(autouse=True)
def as_by_default(address, monkeypatch, no_hang):
    """Lets --ray without an address take that cluster."""
    monkeypatch.setenv("RAY_ADDRESS", address)


@pytest.fixture
def connected():
    with cluster.connected() as found:
        yield found


def _each(connected, make, items, **how):
    """The results by item."""
    return dict(pair for done in connected.each(make, items, **how) for pair in done)


@pytest.mark.parametrize(
    "how,workers", [({}, 2), ({"workers": 1}, 1), ({"processors": 2}, 1)], ids=str
)
def test_items_are_shared_by_the_workers_that_fit_the_cluster(connected, tmp_path, how, workers):
    def make():
        def call(item):
            (tmp_path / str(os.getpid())).touch()
            while len(os.listdir(str(tmp_path))) < workers:
                time.sleep(0.01)
            return item * item

        return call

    assert _each(connected, make, range(8), **how) == {i: i * i for i in range(8)}
    assert len(os.listdir(str(tmp_path))) == workers


def test_the_item_of_a_killed_worker_is_repeated(connected, tmp_path):
    def make():
        def call(item):
            mark = tmp_path / str(item)
            if item == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item + 1

        return call

    assert _each(connected, make, range(6)) == {i: i + 1 for i in range(6)}
    assert (tmp_path / "3").exists()


def test_an_item_that_kills_each_of_its_workers_ends_the_run(connected, monkeypatch):
    monkeypatch.setattr(cluster, "_ATTEMPTS", 2)

    def make():
        return lambda item: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        OSError, match="2 worker processes were killed, one after another, at the same"
    ):
        _each(connected, make, [1], workers=1)


def test_an_exception_of_a_call_ends_the_run_and_the_workers(connected, tmp_path):
    steps = tmp_path / "steps"

    def make():
        def call(item):
            for _ in range(1000):  # for up to twenty seconds
                if item == 0 and steps.exists():
                    raise KeyError("no such thing")
                if item == 1:
                    with open(str(steps), "a") as file:
                        file.write("x")
                time.sleep(0.02)

        return call

    with pytest.raises(KeyError, match="no such thing"):
        _each(connected, make, [1, 0])
    made = [-1, steps.stat().st_size]
    while made[-1] != made[-2]:  # the other worker may take a moment to end
        time.sleep(0.3)
        made.append(steps.stat().st_size)
    assert made[-1] < 1000  # its call was broken off


def test_more_processors_than_a_node_has_are_refused(connected):
    with pytest.raises(OSError, match="no node of the Ray cluster has the 3 processors"):
        _each(connected, list, [1], processors=3)


def test_an_error_on_a_node_names_the_node(connected):
    def look():
        raise OSError("nothing here")

    with pytest.raises(OSError, match=r"node \d+(\.\d+){3} of the Ray cluster: nothing here"):
        connected.on_each_node(look)


def test_a_cluster_that_does_not_answer_is_an_error():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens at this port
        where = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(OSError, match=f"no Ray at {where}: .*refused"), cluster.connected(
            where
        ):
            pass


@pytest.fixture
def noise(tmp_path):
    """A folder of 80 images of two classes."""
    random = np.random.RandomState(0)
    for name in ("ape", "bee"):
        (tmp_path / "src" / name).mkdir(parents=True)
        pixels = random.randint(0, 256, (400, 400, 3), np.uint8)
        Image.fromarray(pixels).save(str(tmp_path / "src" / name / "0.png"), compress_level=1)
        for i in range(1, 40):
            folder = tmp_path / "src" / name
            os.link(str(folder / "0.png"), str(folder / f"{i}.png"))
    return tmp_path / "src"


SHARDS = ["--train-shards", "6", "--validation-shards", "2"]


def _prepare(*arguments):
    return prepare.main([*map(str, arguments), *SHARDS])


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class _Killer(threading.Thread):
    """Kills the first process whose number `find` returns."""

    def __init__(self, find):
        super().__init__(daemon=True)
        self._find = find
        self.killed = None
        self.start()

    def run(self):
        while self.killed is None:
            pid = self._find()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
            time.sleep(0.01)


def test_a_cluster_writes_the_same_shards_even_if_a_worker_is_killed(noise, tmp_path):
    (noise / "ape" / "broken.jpg").write_bytes(b"no JPEG")
    (tmp_path / "ray").mkdir()

    def at_work():
        parts = [path.name for path in (tmp_path / "ray").glob(".*.part")]
        return int(parts[0].split(".")[2]) if parts else None

    killer = _Killer(at_work)
    assert _prepare(noise, tmp_path / "ray", "--on-error", "skip", "--ray") == 0
    assert killer.killed is not None
    assert _prepare(noise, tmp_path / "plain", "--on-error", "skip") == 0
    assert _contents(tmp_path / "ray") == _contents(tmp_path / "plain")
    about = json.loads((tmp_path / "ray" / "dataset.json").read_text())
    assert list(about["skipped"]) == ["ape/broken.jpg"]


def test_only_missing_shards_are_written_on_a_cluster(noise, tmp_path, capsys):
    assert _prepare(noise, tmp_path / "out") == 0
    before = _contents(tmp_path / "out")
    (tmp_path / "out" / "train-00003-of-00006").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[tv]*-of-*")}
    assert _prepare(noise, tmp_path / "out", "--ray") == 0
    assert "7 of 8 shards are complete already" in capsys.readouterr().out
    assert _contents(tmp_path / "out") == before
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_an_unusable_image_gives_the_same_error_on_a_cluster(noise, tmp_path):
    (noise / "bee" / "broken.jpg").write_bytes(b"no JPEG")
    lines = []
    for out, flags in (("plain", []), ("ray", ["--ray"])):
        with pytest.raises(SystemExit) as error:
            _prepare(noise, tmp_path / out, *flags)
        lines.append(error.value.code)
        assert not list((tmp_path / out).glob(".*.part"))
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"error: {noise}/bee/broken.jpg: ") and "\n" not in lines[0]


def test_a_node_with_other_folders_is_an_error_before_anything_is_written(
    noise, tmp_path, monkeypatch
):
    other = cluster.Witness(str(tmp_path / "out" / ".prepare.json"), b"as it is on this machine")
    monkeypatch.setattr(workers.ray_cluster.Witness, "of", lambda path: other)
    with pytest.raises(SystemExit, match=r"error: node [\d.]+ of .*prepare\.json is another file;"):
        _prepare(noise, tmp_path / "out", "--ray")
    assert not list((tmp_path / "out").glob("*-of-*"))


def test_a_folder_that_a_node_lacks_is_named(tmp_path):
    images = [workers.Entry("a/1.png", 0, 10, 0)]
    shard = workers.Shard("train", str(tmp_path / "t"), "/nowhere", images, ["a"], False, 1, "")
    with pytest.raises(OSError, match=r"'/nowhere/a/1\.png'; all nodes must see /nowhere and /"):
        workers._check_sight(shard, cluster.Witness("/nowhere/.prepare.json", b""))


def test_without_an_address_ray_starts_silently_on_this_machine(
    noise, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("RAY_ADDRESS")
    assert _prepare(noise, tmp_path / "plain") == 0
    said = capsys.readouterr().out.replace(str(tmp_path / "plain"), "OUT")
    command = [sys.executable, prepare.__file__, str(noise), str(tmp_path / "ray"), *SHARDS]
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": True}
    run = subprocess.run([*command, "--ray"], **how)
    assert run.stdout.decode().replace(str(tmp_path / "ray"), "OUT") == said
    assert all(b"/" in line.split()[0] for line in run.stderr.splitlines()), run.stderr
    assert _contents(tmp_path / "ray") == _contents(tmp_path / "plain")


def test_without_ray_the_extra_is_named(noise, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r"error: Ray cannot .*: pip install 'pretexture\[ray\]'"):
        _prepare(noise, tmp_path / "out", "--ray")


@pytest.mark.parametrize(
    "arguments", [["--ray", "photos", "out"], ["photos", "out", "--ray", "x:y"]]
)
def test_wrong_addresses_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        prepare.main(arguments)
    assert "argument --ray: an address is HOST:PORT, not" in capsys.readouterr().err


def _busy_worker():
    """The number of a descendant process in which Ray computes; None if there is none."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if not (path / "cmdline").read_bytes().startswith(b"ray::_Worker.call"):
                continue
            pid = above = int(path.name)
            while above not in (0, os.getpid()):
                above = int(
                    pathlib.Path(f"/proc/{above}/stat").read_text().split(")")[-1].split()[1]
                )
        except FileNotFoundError:  # the process has ended
            continue
        if above:
            return pid
    return None


def test_a_cluster_computes_the_same_features_even_if_a_worker_is_killed(
    images, write_shards, tmp_path, monkeypatch
):
    pytest.importorskip("tensorflow")
    import trained
    from pretexture.scripts import linear_eval
    from pretexture.trainers.exports.saved_model import export_run
    from pretexture.trainers.transfer import features

    (tmp_path / "data").mkdir()
    write_shards(tmp_path / "data", images[:24], 2, "train")
    write_shards(tmp_path / "data", images[:3], 1, "validation")
    trained.run(tmp_path / "run")
    module = export_run(str(tmp_path / "run"), str(tmp_path / "module"))
    flags = ["--module", module, "--data", str(tmp_path / "data"), "--num-classes", "24"]
    flags += ["--batch-size", "6", "--eval-batch-size", "1", "--device", "cpu", "--cache"]
    flags += ["--steps", "0", "--threads", "1", "--end-points", "block1"]
    assert linear_eval.main([*flags, "--workdir", str(tmp_path / "plain")]) == 0

    # A stopped run has left two training images and all evaluation images done.
    folder = tmp_path / "ray" / "features" / "train"
    shutil.copytree(str(tmp_path / "plain" / "features"), str(folder.parent))
    state = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps({**state, "ranges": [[3, 5]]}))
    values = np.load(str(folder / "features.npy"), mmap_mode="r+")
    expected = np.array(values)
    expected[3:5] = 7  # they are not computed again
    values[:] = 7
    values.flush()

    def at_work():
        noted = json.loads((folder / "features.json").read_text()).get("ranges")
        return _busy_worker() if noted != [[3, 5]] else None

    monkeypatch.setattr(features, "_SECONDS", -1.0)
    monkeypatch.setattr(extraction, "_BATCHES", 1)
    killer = _Killer(at_work)
    assert linear_eval.main([*flags, "--workdir", str(tmp_path / "ray"), "--ray"]) == 0
    assert killer.killed is not None
    np.testing.assert_allclose(
        np.load(str(folder / "features.npy")), expected, rtol=1e-5, atol=1e-6
    )
    labels = [np.load(str(tmp_path / w / "features/train/labels.npy")) for w in ("plain", "ray")]
    assert labels[0].tolist() == labels[1].tolist() == list(range(24))


def test_npus_of_a_cluster_are_refused():
    with pytest.raises(ValueError, match="--ray computes features on CPUs and GPUs, not on NPUs"):
        extraction.on_ray(None, "", "npu", None)


def test_ray_needs_cached_features(capsys):
    pytest.importorskip("tensorflow")
    from pretexture.scripts import linear_eval

    with pytest.raises(SystemExit):
        linear_eval.main(["--module", "m", "--data", "d", "--workdir", "w", "--ray"])
    assert "argument --ray: needs --cache" in capsys.readouterr().err
