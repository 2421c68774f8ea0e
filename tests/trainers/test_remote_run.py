"""Runs whose data and workdir are at URLs, and which resume on any machine."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("moto.server")

import several
import tiny
from learned import learned
from pretexture.loader import Loader, WindowShuffle, imagenet
from pretexture.loader.shards import remote
from pretexture.loader.shards.remote import Storage
from pretexture.trainers import evaluation
from pretexture.trainers import run as run_module
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs import mirror as remote_workdir
from pretexture.trainers.runs.folder import WorkdirError
from pretexture.trainers.runs.mirror import RemoteWorkdir, fetched, open_workdir

ROOT = os.path.dirname(os.path.abspath(__file__))

pytestmark = pytest.mark.usefixtures("no_hang", "short_pauses")


@pytest.fixture
def data(s3, shards):
    """The URL of the shards."""
    s3.put(sorted(os.path.join(shards, name) for name in os.listdir(shards)))
    return f"{s3.bucket}/data"


@pytest.fixture
def storage(s3, tmp_path):
    return Storage(cache_dir=str(tmp_path / "cache"), endpoint_url=s3.endpoint)


def _elsewhere(storage, tmp_path):
    """Stands for another machine, whose cache is empty."""
    return Storage(cache_dir=str(tmp_path / "new"), endpoint_url=storage.endpoint_url)


def _train(data, workdir, **options):
    options = {"log_steps": 1, "device": "cpu", **options}
    return pretrain(tiny.ROTATION, Options(data, str(workdir), **options), say=lambda line: None)


def _train_locally(shards, folder, monkeypatch, **options):
    """Trains in the order that remote records have by default."""
    windows = functools.partial(Loader, shuffle=WindowShuffle())
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Loader", windows)
        _train(shards, folder, **options)
    return learned(folder)


def _names(s3, folder="run"):
    root = f"{s3.bucket[5:]}/{folder}/"
    return sorted(name[len(root) :] for name in s3.fs.find(root))


def test_a_run_at_urls_learns_what_a_local_run_does(
    s3, shards, data, storage, tmp_path, monkeypatch
):
    said = []
    options = Options(
        data, f"{s3.bucket}/run", storage, steps=8, log_steps=1, checkpoint_steps=3, device="cpu"
    )
    pretrain(tiny.ROTATION, options, say=said.append)
    expected = _train_locally(shards, tmp_path / "local", monkeypatch, steps=8)
    assert len(expected) == 8
    assert learned(fetched(f"{s3.bucket}/run", storage, "plot")) == expected
    text = "\n".join(said)
    assert f"workdir   {s3.bucket}/run" in text and f"data      {data}" in text
    names = _names(s3)
    for step in (3, 6, 8):
        assert f"model.ckpt-{step}.index" in names
        assert f"model.ckpt-{step}.data-00000-of-00001" in names
    assert {"config.json", "metrics.jsonl", "checkpoint"} <= set(names)
    assert not any(name.startswith(".") for name in names)


def test_a_reader_of_the_url_never_sees_an_incomplete_checkpoint(s3, data, storage, monkeypatch):
    monkeypatch.setattr(
        run_module, "Checkpoints", functools.partial(run_module.Checkpoints, newest=1)
    )
    _train(data, f"{s3.bucket}/run", storage=storage, steps=2, checkpoint_steps=1)
    asked = [
        (method, path.rpartition("/")[2].partition("?")[0])
        for method, path in s3.proxy.requests
        if method in ("PUT", "DELETE") and "/run/" in path
    ]

    def at(method, name, last=False):
        places = [i for i, request in enumerate(asked) if request == (method, name)]
        return places[-1 if last else 0]

    data_file, index = "model.ckpt-{}.data-00000-of-00001", "model.ckpt-{}.index"
    for step in (1, 2):
        assert at("PUT", "config.json") < at("PUT", data_file.format(step))
        assert at("PUT", data_file.format(step)) < at("PUT", index.format(step))
        assert at("PUT", index.format(step)) < at("PUT", "checkpoint", last=step == 2)
    assert at("PUT", "checkpoint", last=True) < at("DELETE", index.format(1))
    assert at("DELETE", index.format(1)) < at("DELETE", data_file.format(1))
    assert [name for name in _names(s3) if "ckpt-1" in name] == []


def test_a_killed_run_resumes_on_another_machine(s3, shards, data, storage, tmp_path, monkeypatch):
    command = [sys.executable, os.path.join(ROOT, "drive.py"), "tiny-rotation", "--data", data]
    command += ["--workdir", f"{s3.bucket}/run", "--cache-dir", storage.cache_dir]
    command += ["--endpoint-url", storage.endpoint_url, "--device", "cpu", "--log-steps", "1"]
    process = subprocess.Popen(
        [*command, "--steps", "1000000", "--checkpoint-steps", "7"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    s3.proxy.wait_for("PUT", "model.ckpt-14.index")
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output

    storage = _elsewhere(storage, tmp_path)
    said = []
    options = Options(data, f"{s3.bucket}/run", storage, steps=40, log_steps=1, device="cpu")
    pretrain(tiny.ROTATION, options, say=said.append)
    assert "resumed after step" in "\n".join(said)
    expected = _train_locally(shards, tmp_path / "local", monkeypatch, steps=40)
    assert learned(fetched(f"{s3.bucket}/run", storage, "plot")) == expected


def test_a_run_survives_an_outage_and_uploads_everything_afterwards(
    s3, data, storage, caplog, monkeypatch
):
    outages = []
    push = RemoteWorkdir.push

    def with_outage(self):
        if not outages:
            s3.proxy.fail("503", "model.ckpt-2", method="PUT")
        push(self)
        outages.append(_names(s3))
        s3.proxy.heal()

    monkeypatch.setattr(RemoteWorkdir, "push", with_outage)
    _train(data, f"{s3.bucket}/run", storage=storage, steps=4, checkpoint_steps=2)
    assert not any("model.ckpt" in name or name == "checkpoint" for name in outages[0])
    said = [r.getMessage() for r in caplog.records if "the run continues" in r.getMessage()]
    assert len(said) == 1 and "run/model.ckpt-2.data" in said[0] and storage.cache_dir in said[0]
    assert {"model.ckpt-2.index", "model.ckpt-4.index", "checkpoint"} <= set(outages[1])


def test_a_final_upload_that_fails_is_an_error(s3, data, storage):
    s3.proxy.fail("503", "model.ckpt-", method="PUT")
    with pytest.raises(OSError, match=r"tries\)\. What is missing there is in .*run-.*-train; run"):
        _train(data, f"{s3.bucket}/run", storage=storage, steps=2)
    assert not any("model.ckpt" in name for name in _names(s3))
    s3.proxy.heal()
    _train(data, f"{s3.bucket}/run", storage=storage, steps=2)  # the run has nothing else to do
    assert {"model.ckpt-2.index", "checkpoint", "metrics.jsonl"} <= set(_names(s3))


@pytest.mark.skipif(not tf.executing_eagerly(), reason="several workers on CPUs need TensorFlow 2")
def test_two_workers_at_urls_learn_what_one_local_worker_does(
    s3, shards, data, storage, tmp_path, monkeypatch
):
    flags = ["--cache-dir", storage.cache_dir, "--endpoint-url", storage.endpoint_url]
    flags += ["--steps", "4", "--checkpoint-steps", "2"]
    command = several.command(data, f"{s3.bucket}/run", *flags)
    output = several.done(several.launch(2, command))
    assert "2 x CPU, 2 workers" in output
    split = [os.path.basename(path) for path in imagenet(shards, "train").paths]
    assert len(split) > 1
    for name in split:
        assert s3.proxy.count("GET", f"/data/{name}") == 1

    windows = functools.partial(Loader, shuffle=WindowShuffle())
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Loader", windows)
        options = Options(shards, str(tmp_path / "local"), steps=4, log_steps=1, device="cpu")
        pretrain(tiny.PLAIN, options, say=lambda line: None)
    found = learned(fetched(f"{s3.bucket}/run", storage, "plot"))
    expected = learned(tmp_path / "local")
    assert len(found) == len(expected) == 4
    for line, other in zip(found, expected):
        assert line == pytest.approx(other, abs=1e-5)

    first = remote_workdir.copy_of(f"{s3.bucket}/run", storage, "train")
    assert _names(s3) == sorted(remote_workdir.files_in(first))
    assert {"config.json", "metrics.jsonl", "model.ckpt-2.index", "model.ckpt-4.index"} <= set(
        _names(s3)
    )
    for name in ("config.json", "metrics.jsonl", "model.ckpt-4.index"):
        assert s3.proxy.count("PUT", f"/run/{name}") == (2 if name == "metrics.jsonl" else 1)


def test_a_run_that_continued_elsewhere_replaces_the_local_copy(
    s3, data, storage, tmp_path, caplog
):
    url = f"{s3.bucket}/run"
    _train(data, url, storage=storage, steps=2)
    s3.proxy.fail("503", "model.ckpt-5", method="PUT")
    with pytest.raises(OSError, match="ckpt-5"):
        _train(data, url, storage=storage, steps=5)
    s3.proxy.heal()
    there = _elsewhere(storage, tmp_path)
    _train(data, url, storage=there, steps=3)
    _train(data, url, storage=storage, steps=4)
    assert "was continued on another machine" in caplog.text
    lines = learned(fetched(url, there, "plot"))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert not any("model.ckpt-5" in name for name in _names(s3))


def test_only_one_process_at_a_time_uses_a_copy(s3, storage):
    url = f"{s3.bucket}/run"
    with open_workdir(url, storage, "train"), pytest.raises(
        WorkdirError, match=r"another process on this machine is using s3://.*--cache-dir"
    ), open_workdir(url, storage, "train"):
        pass
    with open_workdir(url, storage, "train"), open_workdir(url, storage, "evaluate"):
        pass


def test_readers_wait_for_each_other_and_upload_nothing(s3, storage, tmp_path):
    url = f"{s3.bucket}/run"
    (tmp_path / "metrics.jsonl").write_text("")
    s3.put([tmp_path / "metrics.jsonl"], "run")
    readers = []
    with open_workdir(url, storage, "plot") as workdir:
        thread = threading.Thread(target=lambda: readers.append(fetched(url, storage, "plot")))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not readers
        with open(os.path.join(workdir.folder, "metrics.jsonl"), "w") as file:
            file.write("changed")
    thread.join(60)
    assert readers == [workdir.folder]
    assert s3.proxy.count("PUT", "/run/") == 0


def test_workers_other_than_the_first_download_only_what_they_resume_from(s3, data, storage):
    url = f"{s3.bucket}/run"
    _train(data, url, storage=storage, steps=3, checkpoint_steps=1)
    enough = ["config.json", "model.ckpt-3.data-00000-of-00001", "model.ckpt-3.index"]
    with open_workdir(url, storage, "train", worker=1) as workdir:
        assert sorted(remote_workdir.files_in(workdir.folder)) == enough
    _train(data, url, storage=storage, steps=4)
    with open_workdir(url, storage, "train", worker=1) as workdir:
        names = [name.replace("-3.", "-4.") for name in enough]
        assert sorted(remote_workdir.files_in(workdir.folder)) == names
    assert "model.ckpt-3.index" in _names(s3)


def test_an_unwritable_url_is_an_error_before_training(s3, data, storage):
    with pytest.raises(OSError, match=r"^s3://nobody-has-it/run/.*no such bucket or folder"):
        _train(data, "s3://nobody-has-it/run", storage=storage, steps=1)
    s3.proxy.fail("503", "/run/", method="PUT")
    with pytest.raises(OSError, match=rf"^{s3.bucket}/run/.*tries"):
        _train(data, f"{s3.bucket}/run", storage=storage, steps=1)
    folder = remote_workdir.copy_of(f"{s3.bucket}/run", storage, "train")
    assert remote_workdir.files_in(folder) == []
    for url in ("http://127.0.0.1:9/run", "https://127.0.0.1:9/run"):
        for use in ("train", "evaluate"):
            with pytest.raises(WorkdirError, match=rf"^{url}: nothing can be written there; give"):
                open_workdir(url, storage, use)


def test_an_export_appears_at_the_url_with_its_description(s3, storage):
    with open_workdir(f"{s3.bucket}/run", storage, "evaluate") as workdir:
        folder = os.path.join(workdir.folder, "exports", "3")
        os.makedirs(os.path.join(folder, "variables"))
        names = ("pretexture.json", "saved_model.pb", "variables/variables.index")
        for name in names:
            with open(os.path.join(folder, name), "w") as file:
                file.write(name)
        workdir.push()
        shutil.rmtree(folder)
    for method, place in (("PUT", -1), ("DELETE", 0)):
        asked = [path for m, path in s3.proxy.requests if m == method and "/exports/" in path]
        assert len(asked) == 3 and "pretexture.json" in asked[place]


def test_a_run_at_a_url_is_evaluated_followed_and_exported(s3, data, shards, storage, tmp_path):
    url = f"{s3.bucket}/run"
    with pytest.raises(WorkdirError, match=rf"{url} holds no run: there is no config\.json"):
        evaluation.evaluate(url, data, device="cpu", storage=storage)
    _train(data, url, storage=storage, steps=4, checkpoint_steps=2)
    how = {"split": "test", "device": "cpu", "storage": storage}
    results = list(evaluation.follow(url, data, poll=0.01, timeout=60, **how))
    assert [result["step"] for result in results] == [2, 4]
    alone = evaluation.evaluate(
        url, data, "test", device="cpu", storage=_elsewhere(storage, tmp_path)
    )
    assert alone == results[-1] and results[-1]["images"] == 13
    assert {"eval-test.json", "eval-test.jsonl"} <= set(_names(s3))
    before = _names(s3)
    _train(data, url, storage=storage, steps=5)  # the run keeps what the evaluation wrote
    assert set(before) < set(_names(s3))
    source = export.run_source(fetched(url, storage, "export"))
    assert source.description.step == 5 and "metrics.jsonl" not in os.listdir(
        os.path.dirname(source.weights.path)
    )


def test_files_removed_from_the_copy_are_downloaded_again(s3, data, storage):
    url = f"{s3.bucket}/run"
    _train(data, url, storage=storage, steps=2)
    folder = remote_workdir.copy_of(url, storage, "train")
    before = _names(s3)
    for name in os.listdir(folder):
        if name.startswith("model.ckpt"):
            os.remove(os.path.join(folder, name))
    _train(data, url, storage=storage, steps=2)
    assert set(before) <= set(_names(s3)) and os.path.exists(f"{folder}/model.ckpt-2.index")


def test_a_checkpoint_removed_during_its_download_is_skipped(s3, storage, tmp_path):
    url = f"{s3.bucket}/run"
    for name in ("config.json", "checkpoint", "model.ckpt-1.index", "model.ckpt-1.data-0"):
        (tmp_path / name).write_text(name)
    s3.put([tmp_path / name for name in ("config.json", "checkpoint")], "run")
    s3.put([tmp_path / name for name in ("model.ckpt-1.index", "model.ckpt-1.data-0")], "run")
    s3.proxy.fail("gone", "/run/model.ckpt-1")
    with open_workdir(url, storage, "export") as workdir:
        names = [name for name in os.listdir(workdir.folder) if not name.startswith(".")]
    assert sorted(names) == ["checkpoint", "config.json"]


def test_a_file_that_changes_after_the_listing_is_downloaded_in_its_new_form(
    s3, storage, monkeypatch
):
    url = f"{s3.bucket}/run"
    s3.fs.pipe(f"{url}/checkpoint", b"old")
    entries = remote.Remote.entries
    after = [b"newer", b"newest"]

    def listed(self, folder, deep=False):
        found = entries(self, folder, deep)
        if after:
            s3.fs.pipe(f"{url}/checkpoint", after.pop(0))
        return found

    monkeypatch.setattr(remote.Remote, "entries", listed)
    with open_workdir(url, storage, "evaluate") as workdir:
        path = os.path.join(workdir.folder, "checkpoint")
        for expected in ("newer", "newer", "newest"):
            with open(path) as file:
                assert file.read() == expected
            s3.proxy.requests.clear()
            workdir.pull()
        assert s3.proxy.count("GET", "/run/checkpoint") == 0
    assert s3.proxy.count("PUT", "/run/checkpoint") == 0


def test_only_changed_files_are_uploaded(s3, storage):
    url = f"{s3.bucket}/run"
    with open_workdir(url, storage, "train") as workdir:
        for name in ("a", "b/c", ".hidden", "d.tmp", "features/x"):
            path = os.path.join(workdir.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(name)
        workdir.push()
        assert _names(s3) == ["a", "b/c"]
        s3.proxy.requests.clear()
        with open(os.path.join(workdir.folder, "a"), "a") as file:
            file.write("more")
        workdir.push()
        os.remove(os.path.join(workdir.folder, "b", "c"))
    puts = [path for method, path in s3.proxy.requests if method == "PUT"]
    assert len(puts) == 1 and "/run/a" in puts[0]
    assert _names(s3) == ["a"] and s3.fs.cat(f"{url}/a") == b"amore"


def test_folder_markers_of_object_stores_are_ignored(s3, storage, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for folder in ("run", "run/features", "new"):
        s3.put_marker(folder)
    s3.put([tmp_path / "config.json"], "run")
    for use in ("train", "evaluate"):
        for url in (f"{s3.bucket}/run", f"{s3.bucket}/run/"):
            with open_workdir(url, storage, use) as workdir:
                assert remote_workdir.files_in(workdir.folder) == ["config.json"]
    with open_workdir(f"{s3.bucket}/new", storage, "train") as workdir:
        assert remote_workdir.files_in(workdir.folder) == []


def test_a_url_that_cannot_be_listed_does_not_start_a_new_run(s3, data, storage):
    s3.proxy.fail("503", "prefix=run", method="GET")
    with pytest.raises(OSError, match=r"s3://.*/run: .*the last of 6 tries"):
        _train(data, f"{s3.bucket}/run", storage=storage, steps=1)
    assert s3.proxy.count("GET", "prefix=run") == remote.TRIES
    assert s3.proxy.count("PUT", "/run/") == 0


def test_a_server_that_does_not_answer_an_upload_is_an_error(s3, storage, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    monkeypatch.setattr(remote, "TRIES", 2)
    s3.proxy.fail("mute", "/run/a", method="PUT")
    with pytest.raises(OSError, match=r"/run/a: .*\(the last of 2 tries\)"), open_workdir(
        f"{s3.bucket}/run", storage, "train"
    ) as workdir, open(os.path.join(workdir.folder, "a"), "w") as file:
        file.write("a")


def test_unsafe_object_keys_write_and_delete_nothing(s3, storage, tmp_path, caplog):
    """A key such as `runs/r//abs/path` names a file outside the run's folder."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    url = f"{s3.bucket}/runs/r"
    s3.put_object("runs/r/config.json", b"{}")
    keys = [f"runs/r/{victim}", "runs/r/" + "long" * 75, "runs/r/exports//1/x"]
    for key in keys:
        s3.put_object(key, b"hostile")
    for _ in range(2):
        folder = fetched(url, storage, "module")
        assert os.listdir(folder).count("config.json") == 1
        assert victim.read_bytes() == b"precious"
    # The notes of an earlier version may list such a file.
    status = os.stat(str(victim))
    notes = {str(victim): [status.st_size, "", status.st_mtime_ns]}
    with open(os.path.join(folder, ".synced.json"), "w") as file:
        json.dump(notes, file)
    fetched(url, storage, "module")
    assert victim.read_bytes() == b"precious"


def test_links_out_of_the_copy_are_not_followed(s3, storage, tmp_path):
    url = f"{s3.bucket}/runs/r"
    s3.put_object("runs/r/config.json", b"{}")
    folder = fetched(url, storage, "module")
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(str(outside), os.path.join(folder, "exports"))
    s3.put_object("runs/r/exports/pretexture.json", b"{}")
    with pytest.raises(WorkdirError, match="exports leads out of"):
        fetched(url, storage, "module")
    assert not os.listdir(str(outside))
