"""JPEGs to test with: any size, every chroma sampling, grey, progressive, restart markers, CMYK."""

import pathlib
import struct

import cv2
import numpy as np
import pytest

SAMPLE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"

SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
KINDS = [*SAMPLINGS, "grey", "progressive", "restart"]


def photograph(height, width, seed=0):
    """Something like a photograph: noise at several scales, saturated colours. uint8 [H, W, 3]."""
    random = np.random.RandomState(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 100), (11, 50), (40, 25)):
        noise = random.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        noise[..., 1:] += random.uniform(-1, 1, 2)
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + image, 0, 255).astype(np.uint8)


def jpeg(height, width, kind="4:2:0", seed=0, quality=90):
    """A photograph as JPEG; `kind` is one of KINDS."""
    image = photograph(height, width, seed)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if kind in SAMPLINGS:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[kind]]
    elif kind == "progressive":
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    elif kind == "restart":
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
    else:
        image = image[..., 0]
    encoded, data = cv2.imencode(".jpg", image, options)
    assert encoded
    return data.tobytes()


def cmyk_jpeg(height, width, ycck=False):
    """A four-channel JPEG as Adobe's programs write them (inverted)."""
    image = pytest.importorskip("PIL.Image")
    import io

    file = io.BytesIO()
    image.fromarray(photograph(height, width)).convert("CMYK").save(file, "JPEG", quality=90)
    data = file.getvalue()
    if ycck:
        # The same samples, declared as YCCK: the colours turn strange, which is all the same here.
        place = data.index(b"\xff\xee\x00\x0eAdobe") + 15
        data = data[:place] + b"\x02" + data[place + 1 :]
    return data


def sample_images(every):
    """Some of the real JPEGs beside the checkout; skips the test if they are missing."""
    if not SAMPLE.is_dir():
        pytest.skip(f"no {SAMPLE.name} beside the checkout")
    count = 0
    for shard in sorted(SAMPLE.iterdir()):
        data = shard.read_bytes()
        offset = 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            if count % every == 0:
                example = data[offset + 12 : offset + 12 + length]
                yield example
            count += 1
            offset += 12 + length + 4
