"""Small files that ask for much: refused, or ended when the Loader is closed or interrupted."""

import io
import struct
import subprocess
import sys
import zlib

import pytest
from pretexture.loader import Loader, RecordError, TFRecords, _core

pytest.importorskip("pretexture.loader.shards.writer")

HANGS = 60  # seconds after which a test gives up; what is tested takes a fraction of a second

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def progressive(side, scans, dc_bytes, full=True):
    """A grey progressive JPEG of side x side pixels, by the letter of ITU-T T.81.

    Its DC scan is `dc_bytes` zero bytes: the one-bit code of "no difference", again and again. Each
    of the AC scans says "no coefficient in the next 2**14 blocks" until the image is full, or
    nothing at all.
    """
    blocks = (side // 8) ** 2
    quantisation = segment(0xDB, b"\0" + b"\1" * 64)
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    dc_table = segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0")
    ac_table = segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    dc = segment(0xDA, b"\1\1\0" + b"\0\0\0") + bytes(dc_bytes)
    runs = -(-blocks // 2**14)  # each: the code 0, then 14 bits, all zero
    ac = segment(0xDA, b"\1\1\0" + b"\1\x3f\0") + bytes(-(-runs * 15 // 8) if full else 0)
    return SOI + quantisation + frame + dc_table + ac_table + dc + ac * scans + EOI


def sequential(side):
    frame = segment(0xC0, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(
        0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0"
    )
    tables += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    return SOI + tables + frame + segment(0xDA, b"\1\1\0" + b"\0\x3f\0") + EOI


def test_the_bombs_are_jpegs():
    image = pytest.importorskip("PIL.Image")

    data = progressive(256, 3, 256**2 // 64 // 8)
    assert image.open(io.BytesIO(data)).convert("RGB").getpixel((100, 100)) == (128,) * 3
    assert (_core.decode_jpeg(data) == 128).all()


@pytest.mark.parametrize("max_pixels", [100_000_000, 2**32 - 1])
def test_a_few_bytes_that_claim_a_large_image_are_refused(max_pixels):
    for data in (sequential(16384), progressive(16384, 1200, 10, full=False)):
        with pytest.raises(ValueError, match=r"16384x16384 pixels, (more than|which do not fit)"):
            _core.decode_jpeg(data, max_pixels=max_pixels)
    assert len(data) < 20_000


def test_many_scans_of_a_large_image_are_refused():
    side = 8192
    data = progressive(side, 1200, side**2 // 64 // 8)
    with pytest.raises(ValueError, match="scans of 8192x8192 pixels, which would take too long"):
        _core.decode_jpeg(data)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_compressed_texts_of_a_png_take_no_memory(tmp_path):
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 7_900_000, 9))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + b"abc" * 8) * 8))
    end = chunk(b"IEND", b"")
    path = tmp_path / "texts.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + text * 40 + rows + text * 40 + end)
    script = (
        "import re, sys\n"
        "from pretexture.loader import _core\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "data, before = open(sys.argv[1], 'rb').read(), peak()\n"
        "assert (_core.decode_jpeg(data) == list(b'abc')).all()\n"
        "print(peak() - before)"
    )
    run = [sys.executable, "-c", script, str(path)]
    kilobytes = int(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
    assert kilobytes < 50_000  # the texts have 630 MB


# One record, and a limit that lets it through: it would take a minute and more.
SLOW = """
import sys, threading
from pretexture.loader import Loader, TFRecords
loader = Loader(TFRecords(sys.argv[1]), "resize(32)", 1, threads=2, max_pixels=2**32 - 1)
{body}
"""
INTERRUPTED = """
import os, signal
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    next(iter(loader))
except KeyboardInterrupt:
    loader.close()
    print("interrupted")
"""
CLOSED = """
threading.Timer(0.5, loader.close).start()
try:
    next(iter(loader))
except RuntimeError as error:
    print(error)
"""
LEFT = """
threading.Thread(target=lambda: next(iter(loader)), daemon=True).start()
threading.Event().wait(0.5)
print("left")
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (INTERRUPTED, "interrupted"),
        (CLOSED, "closed while it was waiting for a batch"),
        (LEFT, "left"),
    ],
    ids=["Ctrl-C", "close", "exit"],
)
def test_decoding_ends_with_the_loader(body, said, write_shards, tmp_path):
    side = 16384
    (path,) = write_shards(tmp_path, [progressive(side, 900, side**2 // 64 // 8)])
    run = subprocess.run(
        [sys.executable, "-c", SLOW.format(body=body), path],
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert run.returncode == 0, run.stderr
    assert said in run.stdout


def test_the_limit_is_an_argument_of_the_loader(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:3])
    height, width = _core.image_size(images[0])
    with Loader(
        TFRecords(paths), "resize(16)", 1, training=False, max_pixels=height * width - 1
    ) as loader, pytest.raises(
        RecordError, match=f"claims {width}x{height} pixels, more than max_"
    ):
        list(loader)
    for wrong in (0, -1, 2**32, 1.5, "many", True):
        with pytest.raises(ValueError, match="max_pixels"):
            Loader(TFRecords(paths), "resize(16)", 1, max_pixels=wrong)


@pytest.mark.parametrize(
    ("pipeline", "batch"),
    [("inception(32768, views=4)", 2**30), ("resize(65535)", 2**31 - 1), ("resize(8)", 10**9)],
)
def test_no_size_wraps_around(pipeline, batch, shards):
    # What the core makes of it without the Loader's own checks.
    records = TFRecords(shards)
    with pytest.raises((ValueError, MemoryError)):
        list(Loader(records, pipeline, batch))
