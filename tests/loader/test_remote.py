"""Remote shards: the same records and batches, whatever happens on the way."""

import contextlib
import errno
import fcntl
import http.server
import json
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import textwrap
import threading

import disks
import numpy as np
import pytest
from pretexture.loader import Loader, Pipeline, RecordError, TFRecords, WindowShuffle, imagenet
from pretexture.loader.backends import Config, Work
from pretexture.loader.backends.dali.batch_reader import BatchReader
from pretexture.loader.shards import remote

pytest.importorskip("s3fs")

from servers import Proxy, web_server

pytestmark = pytest.mark.usefixtures("no_hang", "short_pauses")

PIPELINE = "inception_crop|resize(16)|flip|range(-1, 1)"


@pytest.fixture(scope="module")
def many(images, write_shards, tmp_path_factory):
    """Paths of 12 shards with 72 records."""
    return write_shards(tmp_path_factory.mktemp("many"), (images * 2)[:72], 12)


def _open(s3, urls, tmp_path, **options):
    options = {"cache_dir": tmp_path / "cache", "endpoint_url": s3.endpoint, **options}
    return TFRecords(urls, **options)


def _batches(records, backend="native", **options):
    """The batches of two epochs."""
    options = {"batch_size": 5, "seed": 3, "threads": 2, "shuffle": WindowShuffle(7, 2), **options}
    with Loader(records, PIPELINE, backend=backend, **options) as loader:
        return [
            (batch.image.tobytes(), batch.label.tolist(), batch.index.tolist())
            for _ in range(2)
            for batch in loader
        ]


def _copies(tmp_path):
    """Names and sizes of the copies in the cache."""
    found = {}
    for entry in os.scandir(tmp_path / "cache" / "shards"):
        with contextlib.suppress(FileNotFoundError):
            if entry.name != ".lock":
                found[entry.name] = entry.stat().st_size
    return found


def test_records_are_those_of_the_local_shards_under_their_urls(s3, shards, tmp_path):
    urls = s3.put(shards)
    local = TFRecords(shards)
    for what in (f"{s3.bucket}/data/train-*", urls, urls[0]):
        records = _open(s3, what, tmp_path)
        assert records.remote and list(records.paths) == (urls if what != urls[0] else urls[:1])
        for record, expected in zip(records, local):
            assert record[:2] == expected[:2] and record.offset == expected.offset
            assert record.path == urls[shards.index(expected.path)]
    copy = pickle.loads(pickle.dumps(records))
    assert copy[3] == records[3]


def test_obs_is_s3_at_an_endpoint(s3, shards, tmp_path):
    s3.put(shards)
    pattern = s3.bucket.replace("s3://", "obs://") + "/data/train-*"
    records = _open(s3, pattern, tmp_path)
    assert records.paths[0].startswith("obs://") and len(records) == 37
    with pytest.raises(ValueError, match=r"obs:// URLs need the endpoint .*AWS_ENDPOINT_URL"):
        _open(s3, pattern, tmp_path, endpoint_url=None)


def test_the_endpoint_may_come_from_the_environment(s3, shards, tmp_path, monkeypatch):
    urls = s3.put(shards)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert len(_open(s3, urls, tmp_path, endpoint_url=None)) == 37


def test_splits_of_imagenet_are_those_of_the_local_folder(s3, shards, tmp_path):
    s3.put(shards)
    options = {"cache_dir": tmp_path / "cache", "endpoint_url": s3.endpoint}
    for split in ("train", "val", "trainval"):
        local = imagenet(os.path.dirname(shards[0]), split)
        found = imagenet(f"{s3.bucket}/data", split, **options)
        assert [os.path.basename(path) for path in found.paths] == [
            os.path.basename(path) for path in local.paths
        ]
        assert [record.label for record in found] == [record.label for record in local]
    with pytest.raises(FileNotFoundError, match=r"s3://.*/data has no shards validation-\*"):
        imagenet(f"{s3.bucket}/data", "test", **options)
    with pytest.raises(FileNotFoundError, match=r"s3://.*/none has no shards train-\*"):
        imagenet(f"{s3.bucket}/none", "train", **options)


def test_folders_made_in_a_console_are_no_files(s3, shards, tmp_path):
    s3.put(shards)
    for folder in ("data", "data/train-folder"):
        s3.put_marker(folder)
    options = {"cache_dir": tmp_path / "cache", "endpoint_url": s3.endpoint}
    for folder in ("data", "data/"):
        found = imagenet(f"{s3.bucket}/{folder}", "trainval", **options)
        assert len(found) == len(TFRecords(shards))
    assert len(_open(s3, f"{s3.bucket}/data/train-*", tmp_path)) == 37
    assert len(_open(s3, f"{s3.bucket}/data/*", tmp_path)) == 37


def test_what_is_not_there_is_named(s3, shards, tmp_path):
    s3.put(shards)
    with pytest.raises(FileNotFoundError, match=r"no file matches s3://.*/data/none-\*"):
        _open(s3, f"{s3.bucket}/data/none-*", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"s3://.*/data/none: there is no such file"):
        _open(s3, f"{s3.bucket}/data/none", tmp_path)
    with pytest.raises(IsADirectoryError, match=r"data is a folder; .*s3://.*/data/train-\*"):
        _open(s3, f"{s3.bucket}/data", tmp_path)
    with pytest.raises(ValueError, match="must be of one kind of URL"):
        _open(s3, [f"{s3.bucket}/data/train-00000-of-00003", shards[0]], tmp_path)


@pytest.mark.parametrize("shuffle", [WindowShuffle(7, 2), False, True], ids=str)
def test_batches_are_those_of_the_local_shards(s3, many, tmp_path, shuffle):
    records = _open(s3, s3.put(many), tmp_path)
    assert _batches(records, shuffle=shuffle) == _batches(TFRecords(many), shuffle=shuffle)
    worker = {"shuffle": shuffle, "shard": (1, 3), "drop_remainder": False, "batch_size": 4}
    assert _batches(records, **worker) == _batches(TFRecords(many), **worker)


@pytest.mark.parametrize("backend", ["reference", "dali"])
def test_every_backend_reads_them(s3, shards, tmp_path, backend):
    pytest.importorskip("cv2" if backend == "reference" else "nvidia.dali")
    records = _open(s3, s3.put(shards), tmp_path)
    assert _batches(records, backend) == _batches(TFRecords(shards), backend)


def test_the_reader_of_whole_batches_reads_them(s3, shards, tmp_path):
    """The DALI backend reads with it."""
    options = dict.fromkeys(("training", "shuffle", "drop_remainder"), True)
    options.update(batch_size=5, seed=3, worker=0, workers=1, threads=2, prefetch=1)
    options.update(dtype="float32", layout="NHWC", label_dtype="int32", device="cpu")
    options.update(on_error="skip", max_pixels=10**8, dct="accurate")
    config = Config(Pipeline(PIPELINE), **options)
    found = {}
    remote_records = _open(s3, s3.put(shards), tmp_path)
    remote_records._index = _open(s3, list(remote_records.paths), tmp_path / "i").shard_index()
    for records in (TFRecords(shards), remote_records):
        opened = records.open_shards()
        index = records.shard_index()
        share = config.share(len(index.offsets))
        reader = BatchReader(Work(records, index, opened, share, config))
        batches = [reader.read((0, batch)) for batch in range(2)]
        found[records.remote] = [[(i.record, i.encoded, i.label) for i in b] for b in batches]
        if records.remote:
            s3.proxy.fail("503", "/train-")
            opened.expect([])
            for path in (tmp_path / "cache" / "shards").iterdir():
                path.unlink()
            (image, *_) = reader.read((0, 2))
            assert "the last of 6 tries" in image.error.reason and not image.skipped
        opened.close()
        reader.close()
    assert found[True] == found[False]


def test_in_training_they_are_shuffled_within_windows_by_default(s3, shards, tmp_path):
    records = _open(s3, s3.put(shards), tmp_path)
    with Loader(records, PIPELINE, 4) as loader:
        assert loader.shuffle == WindowShuffle()
    with Loader(records, PIPELINE, 4, training=False) as loader:
        assert loader.shuffle is False
    with Loader(TFRecords(shards), PIPELINE, 4) as loader:
        assert loader.shuffle is True


def test_each_shard_is_fetched_once_where_there_is_room(s3, many, tmp_path):
    urls = s3.put(many)
    expected = _batches(_open(s3, urls, tmp_path))
    assert s3.proxy.count("GET", "/train-") == len(many)
    assert _batches(_open(s3, urls, tmp_path)) == expected  # another start: index and copies
    assert s3.proxy.count("GET", "/train-") == len(many)
    assert sum(_copies(tmp_path).values()) == sum(map(os.path.getsize, many))


def test_the_cache_stays_within_its_size(s3, many, tmp_path, monkeypatch):
    # A batch and the next lie in two windows; each has two blocks of 7 records, which lie in two
    # shards of 6 each.
    size = 8 * max(map(os.path.getsize, many))
    seen = []
    fetch = remote.Remote.fetch

    def measured(self, file, path):
        fetch(self, file, path)
        seen.append(sum(_copies(tmp_path).values()))

    monkeypatch.setattr(remote.Remote, "fetch", measured)
    records = _open(s3, s3.put(many), tmp_path, cache_size=size)
    for shuffle in (WindowShuffle(7, 2), False, True):
        options = {"shuffle": shuffle, "prefetch": 1}
        assert _batches(records, **options) == _batches(TFRecords(many), **options)
    assert len(seen) > len(many)  # some were removed and fetched again
    assert max(seen) <= size


def test_what_is_read_now_is_kept_even_beyond_the_size_which_is_said(s3, many, tmp_path, caplog):
    urls = s3.put(many)
    records = _open(s3, urls, tmp_path, cache_size=1000)
    records._index = _open(s3, urls, tmp_path / "index").shard_index()
    assert _batches(records) == _batches(TFRecords(many))
    said = [r.getMessage() for r in caplog.records if "cache_size" in r.getMessage()]
    assert 1 <= len(said) <= 4 and "may take 1kB" in said[0]
    (needed,) = re.findall(r"of ([\d.]+)kB would do", said[-1])
    caplog.clear()
    _batches(_open(s3, urls, tmp_path / "other", cache_size=int(1000 * float(needed))))
    assert not any("may take" in r.getMessage() for r in caplog.records)


def test_what_was_read_does_not_stay_open(s3, many, tmp_path):
    """Otherwise removing it would free no room on the disk."""
    largest = max(map(os.path.getsize, many))
    records = _open(s3, s3.put(many), tmp_path, cache_size=3 * largest)
    with Loader(records, PIPELINE, 3, training=False, threads=2) as loader:
        for _ in loader:
            links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
            targets = []
            for link in links:
                with contextlib.suppress(FileNotFoundError):  # a thread has just closed it
                    targets.append(os.readlink(link))
            removed = [t for t in targets if "train-" in t and t.endswith("(deleted)")]
            assert len(removed) <= 2  # one a thread, which reads it


def test_a_shard_in_use_when_its_reader_is_closed_is_let_go_afterwards(s3, shards, tmp_path):
    shards_of = _open(s3, s3.put(shards), tmp_path).open_shards()
    with shards_of.use(0) as path:
        shards_of.close()
        with open(path) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


MANY_READER = """
import os, resource, sys
from pretexture.loader import Loader, TFRecords

records = TFRecords(sys.argv[1], cache_dir=sys.argv[2])
open_before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (open_before + 60, open_before + 60))
labels = [record.label for record in records]
assert labels == list(range(len(records))), labels
for shuffle in (True, False):
    with Loader(records, "resize(8)", 10, shuffle=shuffle, seed=1, threads=2) as loader:
        labels = [label for batch in loader for label in batch.label.tolist()]
    assert sorted(labels) == list(range(len(records))), labels
"""


def test_shards_may_be_more_than_a_process_may_open_files(tmp_path, images, write_shards):
    write_shards(tmp_path, (images * 4)[:120], 120)
    pattern = f"file://{tmp_path}/train-*"
    command = [sys.executable, "-c", MANY_READER, pattern, str(tmp_path / "cache")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
    assert done.returncode == 0, done.stdout.decode()


def test_the_next_shards_are_fetched_before_they_are_needed(s3, many, tmp_path):
    urls = s3.put(many)
    len(_open(s3, urls, tmp_path / "index"))
    records = _open(s3, urls, tmp_path / "fresh")
    before = s3.proxy.count("GET", "/train-")
    records._index = _open(s3, urls, tmp_path / "index").shard_index()
    with Loader(records, PIPELINE, 3, training=False, threads=1, prefetch=1) as loader:
        next(iter(loader))  # of shard 0; of shard 4 nothing is read yet
        s3.proxy.wait_for("GET", urls[4].rpartition("/")[2])
        assert s3.proxy.count("GET", "/train-") - before <= 6


FAULTS = ["503", "cut"]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_fails_is_tried_again_until_it_works(s3, shards, tmp_path, kind, caplog):
    urls = s3.put(shards)
    records = _open(s3, urls, tmp_path)
    s3.proxy.fail(kind, "train-00001", times=remote.TRIES - 1)
    assert _batches(records) == _batches(TFRecords(shards))
    assert s3.proxy.count("GET", "train-00001") == remote.TRIES
    assert s3.proxy.count("GET", "train-00000") == 1
    said = [r.getMessage() for r in caplog.records if "trying again after" in r.getMessage()]
    assert len(said) == remote.TRIES - 1 and all(line.startswith(urls[1]) for line in said)


@pytest.mark.parametrize("kind", FAULTS)
def test_what_never_works_is_an_error_with_url_and_reason(s3, shards, tmp_path, kind):
    (url,) = s3.put(shards[:1])
    s3.proxy.fail(kind, "/train-00000")
    reason = {"503": "503|Service Unavailable", "cut": "not complete|100"}[kind]
    with pytest.raises(OSError, match=rf"{url}: .*(?:{reason}).*the last of 6 tries\)"):
        len(_open(s3, url, tmp_path))
    assert s3.proxy.count("GET", "/train-00000") == remote.TRIES
    assert _copies(tmp_path) == {}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_shard_that_cannot_be_fetched_is_a_record_error(s3, shards, tmp_path, backend, on_error):
    if backend == "reference":
        pytest.importorskip("cv2")
    urls = s3.put(shards)
    index = _open(s3, urls, tmp_path / "other").shard_index()
    records = _open(s3, urls, tmp_path)
    records._index = index
    s3.proxy.fail("503", "train-00001")
    options = {"training": False, "threads": 2, "on_error": on_error, "backend": backend}
    with Loader(records, PIPELINE, 37, drop_remainder=False, **options) as loader:
        with pytest.raises(RecordError, match=r"\(record 12\): .*the last of 6 tries") as info:
            next(iter(loader))
        assert info.value.path == urls[1] and urls[1] not in info.value.reason
        s3.proxy.heal()
        assert next(iter(loader)).index.tolist() == list(range(37))


def test_a_refused_connection_is_tried_again(s3, s3_server, shards, tmp_path, caplog):
    urls = s3.put(shards)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    class AfterTwo(logging.Handler):
        said = 0

        def emit(self, record):
            self.said += "trying again" in record.getMessage()
            if self.said == 2 and not started:
                started.append(Proxy(s3_server, port))

    handler = AfterTwo()
    logging.getLogger("pretexture.loader").addHandler(handler)
    try:
        records = _open(s3, urls[0], tmp_path, endpoint_url=f"http://127.0.0.1:{port}")
        assert handler.said == 2
        assert records[3].image == TFRecords(shards)[3].image
    finally:
        logging.getLogger("pretexture.loader").removeHandler(handler)
        for proxy in started:
            proxy.close()
    with pytest.raises(OSError, match=r"Could not connect .*\(the last of 6 tries\)"):
        _open(s3, urls[0], tmp_path, endpoint_url=f"http://127.0.0.1:{port}")


def test_a_missing_shard_or_one_that_may_not_be_read_is_not_tried_again(s3, shards, tmp_path):
    urls = s3.put(shards)
    records = _open(s3, urls, tmp_path)
    s3.fs.rm(urls[2])
    with pytest.raises(FileNotFoundError, match=f"{urls[2]}: there is no such file"):
        len(records)
    assert s3.proxy.count("GET", "train-00002") <= 2  # ahead, and when it is needed


def test_a_shard_of_another_size_than_listed_is_an_error(s3, shards, tmp_path):
    urls = s3.put(shards)
    records = _open(s3, urls, tmp_path)
    size = os.path.getsize(shards[1])
    s3.fs.pipe_file(urls[1], b"short")
    with pytest.raises(OSError, match=rf"5 bytes came, and the listing says {size} "):
        len(records)


def test_a_changed_shard_is_fetched_anew(s3, write_shards, images, tmp_path):
    os.mkdir(tmp_path / "a")
    os.mkdir(tmp_path / "b")
    first = write_shards(tmp_path / "a", images[:4])
    second = write_shards(tmp_path / "b", [*images[:3], images[3][::-1]])  # as long
    (url,) = s3.put(first)
    assert _open(s3, url, tmp_path)[3].image == images[3]
    s3.put(second)
    assert _open(s3, url, tmp_path)[3].image == images[3][::-1]
    s3.proxy.requests.clear()
    assert _open(s3, url, tmp_path)[3].image == images[3][::-1]
    assert s3.proxy.count("GET", "/train-") == 0


def test_a_broken_shard_is_named_by_its_url(s3, write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:8], 2)
    with open(paths[1], "r+b") as file:
        file.truncate(os.path.getsize(paths[1]) - 10)
    urls = s3.put(paths)
    with pytest.raises(RecordError, match=rf"{urls[1]} at byte \d+: .*truncated"):
        len(_open(s3, urls, tmp_path))


def test_an_index_that_was_interrupted_goes_on_where_it_was(s3, many, tmp_path):
    urls = s3.put(many)
    s3.proxy.fail("503", "train-00009")
    with pytest.raises(OSError, match="train-00009"):
        len(_open(s3, urls, tmp_path))
    for path in (tmp_path / "cache" / "shards").iterdir():
        path.unlink()  # as if others had needed the room
    s3.proxy.heal()
    s3.proxy.requests.clear()
    assert len(_open(s3, urls, tmp_path)) == 72
    assert s3.proxy.count("GET", "/train-0000") == s3.proxy.count("GET", "/train-00009") == 1
    asked = len(s3.proxy.requests)
    assert len(_open(s3, urls[2:5], tmp_path)) == 18  # parts of it need no further look
    assert {method for method, _ in s3.proxy.requests[asked:]} == {"HEAD"}


READER = textwrap.dedent("""
    import sys
    from pretexture.loader import Loader, TFRecords, WindowShuffle
    pattern, cache, endpoint, size = sys.argv[1:]
    records = TFRecords(pattern, cache_dir=cache, endpoint_url=endpoint, cache_size=int(size))
    seen = 0
    with Loader(records, "resize(8)", 4, shuffle=WindowShuffle(7, 2), threads=2) as loader:
        for _ in range(2):
            for batch in loader:
                seen += len(batch.index)
    print(seen)
""")


def _reader(s3, tmp_path, size, code=READER):
    command = [sys.executable, "-c", code, f"{s3.bucket}/data/train-*", str(tmp_path / "cache")]
    return subprocess.Popen(
        [*command, s3.endpoint, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_processes_share_a_cache(s3, many, tmp_path):
    s3.put(many)
    readers = [_reader(s3, tmp_path, 10**9) for _ in range(2)]
    for reader in readers:
        output, errors = reader.communicate(timeout=100)
        assert (output, reader.returncode) == ("144\n", 0), errors
    assert s3.proxy.count("GET", "/train-") == len(many)


def test_processes_share_a_cache_that_is_too_small_for_both(s3, many, tmp_path):
    s3.put(many)
    readers = [_reader(s3, tmp_path, 2 * os.path.getsize(many[0])) for _ in range(2)]
    for reader in readers:
        output, errors = reader.communicate(timeout=100)
        assert (output, reader.returncode) == ("144\n", 0), errors


def test_what_a_killed_process_was_fetching_is_fetched_by_the_next(s3, shards, tmp_path):
    s3.put(shards)
    s3.proxy.fail("stall", "train-00001")
    reader = _reader(s3, tmp_path, 10**9)
    s3.proxy.wait_for("GET", "train-00001")
    while not any(name.endswith(".part") for name in _copies(tmp_path)):
        assert reader.poll() is None
    reader.kill()
    reader.communicate()
    s3.proxy.heal()
    records = _open(s3, f"{s3.bucket}/data/train-*", tmp_path)
    assert len(records) == 37
    assert sum(_copies(tmp_path).values()) == sum(map(os.path.getsize, shards))


def test_a_loader_can_be_closed_while_it_waits_for_a_shard(s3, shards, tmp_path):
    urls = s3.put(shards)
    index = _open(s3, urls, tmp_path / "other").shard_index()
    records = _open(s3, urls, tmp_path)
    records._index = index
    s3.proxy.requests.clear()
    s3.proxy.fail("stall", "train-00000")
    loader = Loader(records, PIPELINE, 4, shuffle=False, threads=2)
    thrown = []

    def consume():
        try:
            next(iter(loader))
        except RuntimeError as error:
            thrown.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    s3.proxy.wait_for("GET", "train-00000")
    loader.close()
    consumer.join()
    assert "closed" in thrown[0]


def test_a_process_ends_though_its_loader_waits_for_a_shard(s3, shards, tmp_path):
    s3.put(shards)
    code = READER.replace("with Loader", "loader = Loader").replace(" as loader:", "")
    code = code[: code.index("    for _ in")] + "batches = iter(loader)\ninput()\n"
    len(_open(s3, f"{s3.bucket}/data/train-*", tmp_path))
    for path in (tmp_path / "cache" / "shards").iterdir():
        path.unlink()
    s3.proxy.requests.clear()
    s3.proxy.fail("stall", "/train-")
    reader = _reader(s3, tmp_path, 10**9, code)
    for number in range(3):
        s3.proxy.wait_for("GET", f"/train-0000{number}")
    output, errors = reader.communicate("\n", timeout=100)
    assert (output, reader.returncode, errors) == ("", 0, "")


def test_over_the_web_the_description_of_the_data_names_the_shards(many, tmp_path):
    server = web_server(os.path.dirname(many[0]))
    root = f"http://127.0.0.1:{server.server_port}"
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(FileNotFoundError, match=rf"there is no {root}/dataset\.json, and a web"):
        imagenet(root, "trainval", **options)
    names = [os.path.basename(path) for path in many]
    description = os.path.join(os.path.dirname(many[0]), "dataset.json")
    try:
        with open(description, "w") as file:
            json.dump({"splits": {"train": {"shards": names}}}, file)
        records = imagenet(root, "trainval", **options)
        assert list(records.paths) == [f"{root}/{name}" for name in names]
        assert _batches(records) == _batches(TFRecords(many))
        with pytest.raises(FileNotFoundError, match="has no shards validation"):
            imagenet(root, "test", **options)
        with open(description, "w") as file:
            file.write("[]")
        with pytest.raises(ValueError, match=r"dataset\.json does not name the shards"):
            imagenet(root, "trainval", **options)
    finally:
        os.remove(description)
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", FAULTS)
def test_over_the_web_what_fails_is_tried_again(many, tmp_path, kind):
    server = web_server(os.path.dirname(many[0]))
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    url = f"{proxy.url}/{os.path.basename(many[1])}"
    proxy.fail(kind, "train-00001", times=2)
    records = TFRecords(url, cache_dir=tmp_path / "cache")
    assert np.array_equal([r.image for r in records], [r.image for r in TFRecords(many[1])])
    assert proxy.count("GET", "train-00001") == 3
    proxy.close()
    server.shutdown()
    server.server_close()


def test_a_disk_that_is_full_or_in_the_way_is_an_error_at_once(s3, shards, small_disk, tmp_path):
    urls = s3.put(shards)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "shards").write_text("in the way")
    with pytest.raises(OSError, match="shards"):
        len(_open(s3, urls, tmp_path))
    os.remove(tmp_path / "cache" / "shards")

    (small_disk / "room").write_bytes(bytes(os.path.getsize(shards[0]) // 2))
    disks.fill(small_disk)
    (small_disk / "room").unlink()
    fetched = s3.proxy.count("GET", "train-00000")
    with pytest.raises(OSError, match=r"cannot be kept in .*shards: .*No space left on device"):
        len(_open(s3, urls, small_disk))
    left = [name for _, _, names in os.walk(small_disk) for name in names]
    assert not [name for name in left if name.startswith("train-") or name.endswith(".part")], left
    assert s3.proxy.count("GET", "train-00000") <= fetched + 1
    disks.make_room(small_disk)
    assert len(_open(s3, urls, small_disk)) == 37


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_an_upload_to_a_disk_that_cannot_be_written_is_an_error_at_once(
    number, tmp_path, monkeypatch
):
    tried = []

    def put_file(self, *args, **kwargs):
        tried.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.put_file", put_file)
    (tmp_path / "here").write_text("contents")
    url = f"file://{tmp_path}/there"
    with pytest.raises(remote.FetchError, match=os.strerror(number)) as info:
        remote.Remote(url, remote.Storage()).write(str(tmp_path / "here"), url)
    assert len(tried) == 1
    assert "the last of" not in str(info.value)


def test_without_fsspec_a_line_names_the_extra(monkeypatch, shards):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"s3:// URLs need fsspec: pip install 'pretexture\[rem"):
        TFRecords("s3://bucket/train-*")
    assert len(TFRecords(shards)) == 37


def test_a_kind_of_url_that_needs_more_or_is_unknown_is_named():
    with pytest.raises(ValueError, match="fsspec does not open nowhere:// URLs"):
        TFRecords("nowhere://bucket/train-*")
    pytest.importorskip("fsspec")
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"gs:// URLs need .*pretexture\[gcs\]"):
            TFRecords("gs://bucket/train-*")


HOSTILE = [
    "/etc/passwd",
    "//double",
    "inner//file",
    "../above",
    "inner/../../above",
    "./here",
    "inner/./file",
    "back\\slash",
    "C:drive",
    "new\nline",
    "x" * 300,
]
HARMLESS = ["a", "inner/file", "..a", "a..", "...", "with space", "图像", "x" * 200]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_would_leave_the_folder_is_not_safe(name):
    assert not remote.is_safe_name(name)
    assert not remote.is_safe_name("a/" + name)


@pytest.mark.parametrize("name", HARMLESS)
def test_names_of_files_are_safe(name, tmp_path):
    assert remote.is_safe_name(name)
    inside = os.path.normpath(os.path.join(str(tmp_path), name))
    assert inside.startswith(str(tmp_path) + os.sep)


def test_a_listing_leaves_out_what_no_local_file_can_be_called(s3, tmp_path, caplog):
    for name in ["good", "inner/file", "/abs/path", "inner//file", "x" * 300]:
        s3.put_object(f"runs/r/{name}", b"contents")
    listed = remote.Remote(s3.bucket, remote.Storage(endpoint_url=s3.endpoint)).entries(
        f"{s3.bucket}/runs/r", deep=True
    )
    assert sorted(listed) == ["good", "inner/file"]
    (said,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "3 files" in said


@pytest.mark.parametrize("name", ["../train-00000-of-00001", "/etc/train-00000-of-00001", 3, None])
def test_a_web_servers_list_of_shards_names_files_of_its_folder_alone(name, tmp_path):
    listed = json.dumps({"splits": {"train": {"shards": [name]}}})
    (tmp_path / "dataset.json").write_text(listed)
    server = web_server(tmp_path)
    with pytest.raises(ValueError, match="does not name the shards"):
        imagenet(f"http://127.0.0.1:{server.server_port}", "trainval")
    server.shutdown()


class Lying(http.server.BaseHTTPRequestHandler):
    """A web server that answers GET by `answer(handler)`, and HEAD with a size of 100 bytes."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()

    def do_GET(self):
        self.server.answer(self)


@pytest.fixture
def lying():
    """lying(answer): the URL of a file on such a server."""
    servers = []

    def make(answer, head=None):
        handler = type("Handler", (Lying,), {"do_HEAD": head} if head else {})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        servers[-1].answer = answer
        servers[-1].daemon_threads = True
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/train-00000-of-00001"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_body_longer_than_announced_is_not_kept(lying, tmp_path, short_pauses):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                sent.append(handler.wfile.write(bytes(1 << 20)))

    records = TFRecords([lying(endless)], cache_dir=tmp_path, cache_size=1 << 20)
    with pytest.raises(OSError, match="more bytes come than the 100 that the listing says"):
        len(records)
    assert max(sent) < 1000 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "shards").iterdir()) == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_server_that_fails_does_not_say_that_a_file_is_missing(
    status, lying, tmp_path, short_pauses
):
    asked = []

    def fail(handler):
        asked.append(handler.path)
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with pytest.raises(OSError, match=rf"{status}.*the last of 6 tries") as info:
        TFRecords(lying(fail, fail), cache_dir=tmp_path)
    assert not isinstance(info.value, FileNotFoundError)
    assert len(asked) >= 6


def test_a_server_that_refuses_connections_does_not_say_that_a_file_is_missing(
    tmp_path, short_pauses
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/train-00000-of-00001"
        with pytest.raises(OSError, match="the last of 6 tries") as info:
            TFRecords(url, cache_dir=tmp_path)
    assert not isinstance(info.value, FileNotFoundError)


def test_a_file_that_is_not_there_is_missing_at_once(lying, tmp_path):
    def missing(handler):
        handler.send_error(404)

    with pytest.raises(FileNotFoundError, match="there is no such file"):
        TFRecords(lying(missing, missing), cache_dir=tmp_path)


def test_room_is_made_of_what_is_the_caches_own(s3, many, tmp_path):
    folder = tmp_path / "cache" / "shards"
    folder.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(10 << 20))
    (folder / "precious").write_bytes(bytes(10 << 20))
    (folder / "link.0123456789abcdef").symlink_to(victim)
    records = _open(s3, s3.put(many), tmp_path, cache_size=1)
    assert len(records) > 0
    assert (folder / "precious").exists()
    assert victim.stat().st_size == 10 << 20
    assert (folder / "link.0123456789abcdef").is_symlink()


MUTE = """
import os, signal, sys, threading
from pretexture.loader import Loader, TFRecords
kind, url, cache = sys.argv[1:]
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    records = TFRecords([url] if kind != "glob" else url, cache_dir=cache)
    len(records)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("kind", ["describe", "fetch", "accept"])
def test_a_mute_server_does_not_hold_up_ctrl_c(kind, lying, tmp_path):
    silent = threading.Event()

    def mute(handler):
        silent.wait(100)

    if kind == "accept":
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/train-00000-of-00001"
    else:
        url = lying(mute, mute if kind == "describe" else None)
    run = subprocess.run(
        [sys.executable, "-c", MUTE, kind, url, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=40,  # against minutes
    )
    silent.set()
    assert run.stdout == "interrupted\n", run.stderr
