"""Small shards of generated JPEGs."""

import faulthandler
import io
import itertools
import logging
import os
import signal

import disks
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # pytest runs a process on each core
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A shell starts its background jobs with Ctrl-C ignored, and all that they start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    """Keeps the loader's indexes out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tf():
    """TensorFlow; skips the test where there is none."""
    return pytest.importorskip("tensorflow")


def _jpeg(seed):
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(seed)
    width, height = random.randint(40, 90, 2)
    coarse = image.fromarray(random.randint(0, 256, (6, 7, 3), np.uint8).astype(np.uint8))
    picture = coarse.resize((int(width), int(height)), image.BICUBIC)
    if seed % 11 == 5:
        picture = picture.convert("L")
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=seed % 3, progressive=seed % 7 == 3)
    return file.getvalue()


@pytest.fixture(scope="session")
def images():
    """37 JPEGs of different sizes; some are progressive, grey or without chroma subsampling."""
    return [_jpeg(seed) for seed in range(37)]


@pytest.fixture(scope="session")
def write_shards():
    """write_shards(folder, images, shards=1, name="train"): labels are 1, 2, …; returns paths."""
    writer = pytest.importorskip("pretexture.loader.shards.writer")

    def write(folder, images, shards=1, name="train"):
        paths = [os.path.join(str(folder), f"{name}-{i:05}-of-{shards:05}") for i in range(shards)]
        cuts = [len(images) * i // shards for i in range(shards + 1)]
        for path, begin, end in zip(paths, cuts, cuts[1:]):
            with writer.TFRecordWriter(path) as shard:
                for number in range(begin, end):
                    features = {"image/class/label": number + 1}
                    if images[number] is not None:
                        features["image/encoded"] = images[number]
                    shard.write(writer.example(features))
        return paths

    return write


@pytest.fixture(scope="session")
def shards(images, write_shards, tmp_path_factory):
    """Paths of three shards with the 37 images; not to be changed."""
    return write_shards(tmp_path_factory.mktemp("shards"), images, 3)


@pytest.fixture
def no_hang():
    """Ends the test run, with every thread's stack, where a test hangs."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def small_disk(tmp_path):
    """An empty disk of a megabyte; skips the test if this user may not mount one."""
    with disks.mounted(tmp_path / "small", 1 << 20) as disk:
        yield disk


_buckets = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    """The URL of an S3 server on loopback."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def aws(monkeypatch):
    """Credentials that are good enough for a server on loopback, and nothing else from outside."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="session")
def s3_proxy(s3_server):
    """The proxy of all buckets: a client for another address takes half a second to make."""
    from servers import Proxy

    proxy = Proxy(s3_server)
    yield proxy
    proxy.close()


@pytest.fixture
def s3(s3_server, s3_proxy, aws):
    """An empty bucket behind a proxy that can be told to fail; see `servers.S3`."""
    from servers import S3

    storage = S3(s3_server, s3_proxy, f"bucket-{next(_buckets)}x")
    yield storage
    storage.proxy.heal()


@pytest.fixture
def short_pauses(monkeypatch):
    """Makes what fails be tried again at once."""
    from pretexture.loader.shards import remote

    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
