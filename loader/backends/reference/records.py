"""From a place in a shard to pixels: TFRecord, Example, JPEG."""

import struct
from typing import List, Optional, Tuple

import numpy as np

from ... import _core
from ...shards.example_proto import Example
from ...shards.limits import MAX_PIXELS
from ...shards.records import TFRecords
from ...shards.source import Encoded

try:
    import cv2
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise ImportError(
        "the reference backend needs OpenCV and protobuf: pip install 'pretexture[reference]'"
    ) from error


def _crc32c_table() -> List[int]:
    """One entry for each byte, for the reflected polynomial 0x82f63b78 (Castagnoli)."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C_TABLE = _crc32c_table()

_CHANGED = "; if it is complete now, create the TFRecords and the Loader again"


def masked_crc32c(data: bytes) -> int:
    """CRC-32C as TFRecord files store it: rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_record(path: str, offset: int, length: int, verify_crc: bool) -> bytes:
    """The data of the record that begins at `offset`.

    A record is: uint64 length, uint32 masked CRC-32C of these 8 bytes, data, uint32 masked CRC-32C
    of the data; all little-endian.

    Args:
        path: path of the shard.
        offset: bytes from the start of the shard to the record's length field.
        length: bytes of data, according to the index.
        verify_crc: whether to compare the data with its checksum.

    Raises: ValueError with the reason; OSError if the file cannot be read, or if it was replaced
        after it was indexed.
    """
    with open(path, "rb") as shard:
        shard.seek(offset)
        record = shard.read(12 + length + 4)
    if len(record) < 12 + length + 4:
        raise OSError(
            f"the file ends within the record: it was truncated after it was indexed{_CHANGED}"
        )
    if struct.unpack("<Q", record[:8])[0] != length:
        raise OSError(
            "the record is not where the index says: the file was replaced after it was indexed"
            + _CHANGED
        )
    data = record[12:-4]
    if verify_crc:
        found, (expected,) = masked_crc32c(data), struct.unpack("<I", record[-4:])
        if found != expected:
            raise ValueError(f"CRC32C of the data is 0x{found:08x}, the file says 0x{expected:08x}")
    return data


def read_example(records: TFRecords, path: str, offset: int, length: int) -> Encoded:
    """Reads the record that begins at `offset` of a shard and has so many bytes of data."""
    data = read_record(path, offset, length, records.verify_crc)
    image, stored = parse_example(data, records.image_key, records.label_key)

    def label() -> int:
        rule = records.label_key, records.label_offset, records.label_required
        return class_label(data, stored, *rule)

    return Encoded(image, length, label)


def parse_example(data: bytes, image_key: str, label_key: str) -> Tuple[bytes, Optional[int]]:
    """The encoded image and the label of a serialised `tf.train.Example`.

    Args:
        data: the serialised message.
        image_key: the feature whose first byte string is the image.
        label_key: the feature whose first integer is the label.

    Returns: the image, and the label, or None if there is none.
    Raises: ValueError with the reason.
    """
    example = Example()
    try:
        example.ParseFromString(data)
    except DecodeError:
        raise ValueError("not a well-formed tf.train.Example") from None
    features = example.features.feature
    images = features[image_key].bytes_list.value if image_key in features else []
    labels = features[label_key].int64_list.value if label_key in features else []
    if not images or not images[0]:
        raise ValueError(
            f"the record has no feature '{image_key}' with bytes in it; "
            + _core.feature_names(data)
        )
    return images[0], labels[0] if labels else None


def class_label(
    data: bytes, label: Optional[int], label_key: str, label_offset: int, required: bool
) -> int:
    """The class label of a record: the stored label minus the offset; -1 if there is none.

    Args:
        data: the serialised record.
        label: the label that `parse_example` found.
        label_key: name of the label's feature.
        label_offset: number that is subtracted from the stored label, unless that is -1 ("no
            label").
        required: whether a record without the feature is an error.

    Raises: ValueError with the reason.
    """
    if label is not None:
        if label == -1 or 0 <= label - label_offset < 2**31:
            return -1 if label == -1 else label - label_offset
        stored = f"the label {label} less label_offset={label_offset}"
        if label >= label_offset:
            raise ValueError(f"{stored} does not fit in 32 bits")
        hint = "; if labels count from 0, use label_offset=0" if label == 0 else ""
        raise ValueError(f"{stored} is below 0{hint}")
    example = Example()
    example.ParseFromString(data)
    features = example.features.feature
    if label_key not in features:
        if required:
            names = _core.feature_names(data)
            raise ValueError(f"the record has no label feature '{label_key}'; {names}")
        return -1
    kinds = {"bytes_list": "bytes", "float_list": "floating-point numbers"}
    found = features[label_key].WhichOneof("kind")
    if found in kinds and getattr(features[label_key], found).value:
        kind = kinds[found]
        raise ValueError(f"the label feature '{label_key}' holds {kind}; a class label is an int64")
    return -1


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, fast_dct: bool = False) -> np.ndarray:
    """Decodes a whole JPEG or PNG to uint8 RGB [H, W, 3]; an orientation tag is ignored.

    OpenCV and the compiled core both call libjpeg-turbo with its accurate integer DCT and its
    smooth chroma upsampling, so the pixels are the same. OpenCV converts four-channel JPEGs and
    PNGs to RGB by rules of its own, so the core, which follows TensorFlow, decodes these.

    Args:
        data: the encoded image.
        max_pixels: size of the largest image that is decoded, in pixels.
        fast_dct: whether to use libjpeg's fast integer DCT. OpenCV does not offer it, so the core
            decodes the image.

    Raises: ValueError with the reason.
    """
    height, width = _core.image_size(data, max_pixels)
    if data.startswith(b"\x89PNG") or _frame(data)[2] == 4 or fast_dct:
        return _core.decode_jpeg(data, plain=True, max_pixels=max_pixels, fast_dct=fast_dct)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"the JPEG cannot be decoded: {error}") from error
    if image is None or image.shape != (height, width, 3):
        raise ValueError("the JPEG cannot be decoded")
    return image[..., ::-1]


def _frame(data: bytes) -> Tuple[int, int, int]:
    """Height, width and number of channels, found by a walk over all marker segments.

    Raises: ValueError if the data ends before the marker that ends the image. OpenCV before 5
        decodes what there is of such files; TensorFlow does not.
    """
    frame = (0, 0, 0)
    at = 2
    while True:
        at = data.find(b"\xff", at) + 1
        if at == 0 or at == len(data):
            raise ValueError("the JPEG cannot be decoded: the data end early")
        marker = data[at]
        if marker == 0xD9:
            return frame
        # 0xff is padding; after 0x00 and the restart markers the compressed data continues.
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 8 < len(data):
            frame = struct.unpack_from(">HHB", data, at + 4)
        at += 1 + int.from_bytes(data[at + 1 : at + 3], "big")
