"""`pretexture modelarts`, with and without the platform's module moxing."""

import json
import os
import shutil
import sys
import types

import pytest

tf = pytest.importorskip("tensorflow")

import tiny
from learned import learned
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.scripts import (
    modelarts,
    pretrain,
)

PLATFORM = ["--init_method", "tcp://127.0.0.1:6666", "--num_gpus", "1", "--rank", "0"]
PLATFORM += ["--world_size", "1"]
RUN = ["--recipe", "tiny-rotation", "--device", "cpu", "--log_steps=1"]


class Moxing:
    """`moxing.file` between folders of this machine: obs://bucket is a folder.

    Attributes:
        calls: the calls so far, with the files that were copied.
        broken: whether copies to obs:// fail.
    """

    def __init__(self, bucket):
        self._bucket = str(bucket)
        self.calls = []
        self.broken = False

    def exists(self, file_path):
        return os.path.exists(self._local(file_path))

    def copy_parallel(self, src_url, dst_url, file_list=None, threads=16):
        source, target = self._local(src_url), self._local(dst_url)
        names = sorted(
            os.path.relpath(os.path.join(folder, name), source)
            for folder, _, files in os.walk(source)
            for name in files
        )
        self.calls.append(("copy", src_url, dst_url, names))
        if self.broken and dst_url.startswith("obs://"):
            raise RuntimeError("obs client error")
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))

    def remove(self, file_path, recursive=False):
        self.calls.append(("remove", file_path))
        os.remove(self._local(file_path))

    def _local(self, url):
        return url.replace("obs://bucket", self._bucket)


@pytest.fixture
def data(images, write_shards, tmp_path):
    """The bucket's folder, which has shards of the images in `data`."""
    folder = tmp_path / "bucket" / "data"
    folder.mkdir(parents=True)
    write_shards(folder, images[:24], 3)
    return tmp_path / "bucket"


@pytest.fixture(autouse=True)
def tiny_recipes(monkeypatch):
    tiny.register(monkeypatch.setitem)


@pytest.fixture
def moxing(data, monkeypatch):
    module = types.ModuleType("moxing")
    module.file = Moxing(data)
    monkeypatch.setitem(sys.modules, "moxing", module)
    return module.file


def _job(tmp_path, *more, machine="machine", url="obs://bucket/run/"):
    urls = ["--data_url", "obs://bucket/data/", "--train_url", url]
    cache = ["--cache-dir", str(tmp_path / machine)]
    return modelarts.main([*urls, *PLATFORM, *RUN, *cache, *more])


def test_data_and_run_are_copied_with_moxing(moxing, data, tmp_path):
    assert _job(tmp_path, "--steps", "4", "--checkpoint-steps", "2") == 0
    source, target, names = moxing.calls[0][1:]
    assert source == "obs://bucket/data/"
    assert os.path.dirname(target) == str(tmp_path / "machine" / "data")
    assert len(names) == 3
    expected = tmp_path / "expected"
    local = ["--data", str(data / "data"), "--workdir", str(expected)]
    pretrain.main(["tiny-rotation", *local, "--steps", "4", "--device", "cpu", "--log-steps", "1"])
    assert len(learned(expected)) == 4 and learned(data / "run") == learned(expected)

    copies = [name for call in moxing.calls[1:] for name in call[3]]
    for step in (2, 4):
        data_file = copies.index(f"model.ckpt-{step}.data-00000-of-00001")
        assert data_file < copies.index(f"model.ckpt-{step}.index")
    assert copies.count("model.ckpt-2.index") == 1 and copies.count("checkpoint") == 2
    assert not any(name.startswith(".") or ".changed" in name for name in copies)


def test_a_job_resumes_on_another_machine(moxing, data, tmp_path):
    _job(tmp_path, "--steps", "3")
    assert _job(tmp_path, "--steps", "6", machine="other") == 0
    assert [line["step"] for line in learned(data / "run")] == [1, 2, 3, 4, 5, 6]
    (copy,) = (tmp_path / "other" / "run").iterdir()
    assert (copy / "model.ckpt-3.index").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_the_next_run_uploads_what_failed_to_upload(moxing, data, tmp_path, earlier):
    _job(tmp_path, "--steps", "2")
    moxing.broken = True
    with pytest.raises(SystemExit, match="obs client error"):
        _job(tmp_path, "--steps", "4")
    moxing.broken = False
    if earlier:  # version 0.1 noted size, time and digest of each file
        (notes,) = (tmp_path / "machine" / "run").glob("*/.synced.json")
        copied = json.loads(notes.read_text())
        copied = {name: [size, time, key] for name, (size, key, time) in copied.items()}
        notes.with_name(".copied.json").write_text(json.dumps(copied))
        notes.unlink()
    assert _job(tmp_path, "--steps", "4") == 0
    assert {"model.ckpt-2.index", "model.ckpt-4.index"} <= set(os.listdir(data / "run"))
    assert "ckpt-4" in (data / "run" / "checkpoint").read_text().splitlines()[0]
    assert [line["step"] for line in learned(data / "run")] == [1, 2, 3, 4]


def test_a_run_that_continued_on_another_machine_replaces_the_local_copy(moxing, data, tmp_path):
    _job(tmp_path, "--steps", "2")
    moxing.broken = True
    with pytest.raises(SystemExit, match="obs client error"):
        _job(tmp_path, "--steps", "5")
    moxing.broken = False
    _job(tmp_path, "--steps", "3", machine="other")
    assert _job(tmp_path, "--steps", "4") == 0
    assert [line["step"] for line in learned(data / "run")] == [1, 2, 3, 4]
    assert not os.path.exists(data / "run" / "model.ckpt-5.index")


def test_a_run_that_was_removed_from_its_url_starts_over(moxing, data, tmp_path):
    _job(tmp_path, "--steps", "3")
    shutil.rmtree(data / "run")
    _job(tmp_path, "--steps", "2")
    assert [line["step"] for line in learned(data / "run")] == [1, 2]


def test_runs_at_different_urls_are_independent(moxing, data, tmp_path):
    _job(tmp_path, "--steps", "3")
    _job(tmp_path, "--steps", "2", "--seed", "1", url="obs://bucket/other")
    assert [line["step"] for line in learned(data / "other")] == [1, 2]
    assert not os.path.exists(data / "other" / "model.ckpt-3.index")


def test_retired_checkpoints_are_removed_from_the_url(moxing, data, tmp_path):
    _job(tmp_path, "--steps", "7", "--checkpoint-steps", "1")
    left = sorted(name for name in os.listdir(data / "run") if name.endswith(".index"))
    assert left == [f"model.ckpt-{step}.index" for step in range(3, 8)]
    gone = [call[1] for call in moxing.calls if call[0] == "remove"]
    assert gone[:2] == [
        "obs://bucket/run/model.ckpt-1.index",
        "obs://bucket/run/model.ckpt-1.data-00000-of-00001",
    ]


def test_a_failed_upload_is_an_error_at_the_end_unless_a_later_one_succeeds(
    moxing, data, tmp_path, caplog
):
    moxing.broken = True
    message = r"obs://bucket/run/: moxing\.file\.copy_parallel: obs client error\. What is missing"
    with pytest.raises(SystemExit, match=rf"^error: {message} there is in .*machine/run/"):
        _job(tmp_path, "--steps", "2")
    assert [r for r in caplog.records if "the run continues" in r.getMessage()]
    moxing.broken = False
    assert _job(tmp_path, "--steps", "2") == 0
    assert len(learned(data / "run")) == 2


def test_unknown_flags_are_reported_and_ignored(moxing, tmp_path, capsys):
    assert _job(tmp_path, "--steps", "1", "--ak", "KEY", "--batch_size", "4") == 0
    said = capsys.readouterr().out
    assert "not known to pretexture pretrain, and ignored: --ak\n" in said
    assert "KEY" not in said
    assert "steps of 4 an epoch" in said


def _cluster(**workers):
    return json.dumps({"cluster": workers, "task": {"type": "worker", "index": 0}})


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"TF_CONFIG": "{}"}, False),
        ({"TF_CONFIG": _cluster(worker=["a:1"])}, False),
        ({"TF_CONFIG": _cluster(worker=["a:1", "a:2"])}, True),
        ({"TF_CONFIG": _cluster(chief=["a:1"], worker=["a:2"])}, True),
        ({"TF_CONFIG": "{}", "RANK_SIZE": "2"}, True),
    ],
)
def test_with_several_processes_moxing_is_not_used(
    moxing, tmp_path, monkeypatch, environment, several
):
    for name in ("TF_CONFIG", "RANK_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started = []
    monkeypatch.setattr(pretrain, "main", lambda *arguments: started.append(arguments) or 0)
    _job(tmp_path)
    assert (len(started[0]) == 1) == several == (not moxing.calls)


def test_an_invalid_tf_config_is_an_error_before_anything_is_copied(moxing, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "no JSON")
    with pytest.raises(SystemExit, match="error: TF_CONFIG must be as"):
        _job(tmp_path)
    assert not moxing.calls


def test_without_moxing_urls_are_read_as_in_pretraining(s3, tmp_path, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)
    for number in range(2):
        with TFRecordWriter(tmp_path / f"train-0000{number}-of-00002") as writer:
            for image in images[:10]:
                writer.write(example({"image/encoded": image, "image/class/label": 1}))
    s3.put(sorted(tmp_path.glob("train-*")))
    bucket = s3.bucket.replace("s3://", "obs://")
    urls = ["--data_url", f"{bucket}/data/", "--train_url", f"{bucket}/run/"]
    flags = ["--steps", "2", "--endpoint_url", s3.endpoint, "--cache_dir", str(tmp_path / "cache")]
    assert modelarts.main([*urls, *PLATFORM, *RUN, *flags, "--train-split", "trainval"]) == 0
    assert s3.fs.exists(f"{s3.bucket}/run/model.ckpt-2.index")
    assert os.path.exists(tmp_path / "cache" / "shards")


def test_urls_of_a_job_are_required(capsys):
    with pytest.raises(SystemExit):
        modelarts.main(["--data_url", "obs://bucket/data"])
    assert "--train_url, --recipe" in capsys.readouterr().err
