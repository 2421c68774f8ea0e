"""tf.train.Example read in place, held against protobuf's own parser."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import example as with_example
from hypothesis import strategies as st
from pretexture.loader import _core

example_proto = pytest.importorskip("pretexture.loader.shards.example_proto")

IMAGE, LABEL = "image/encoded", "image/class/label"


def parse(data):
    return _core.parse_example(data, IMAGE, LABEL)


def by_protobuf(data):
    """The image and label that protobuf reads; ValueError if it fails or there is no image."""
    features = example_proto.parse_example(data)
    images, labels = features.get(IMAGE, []), features.get(LABEL, [])
    if not images or not isinstance(images[0], bytes) or not images[0]:
        raise ValueError("no image")
    label = labels[0] if labels and isinstance(labels[0], int) else None
    return images[0], label


def outcome(function, data):
    try:
        return function(data)
    except ValueError:
        return ValueError


# The wire format, so that every way of writing a message can be tried.


def varint(value):
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def test_tensorflows_examples_are_parsed(tf):
    feature = tf.train.Feature
    for label in (0, 1, -1, 1000, 2**63 - 1, -(2**63)):
        features = {
            "image/filename": feature(bytes_list=tf.train.BytesList(value=[b"name"])),
            IMAGE: feature(bytes_list=tf.train.BytesList(value=[b"\xff\xd8pixels"])),
            "box": feature(float_list=tf.train.FloatList(value=[0.5, 1])),
            LABEL: feature(int64_list=tf.train.Int64List(value=[label])),
        }
        message = tf.train.Example(features=tf.train.Features(feature=features))
        assert parse(message.SerializeToString()) == (b"\xff\xd8pixels", label)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("labels", [[0], [5, 6], [-1], [2**63 - 1], []])
def test_numbers_are_read_packed_and_unpacked(labels, packed):
    if packed:
        numbers = field(1, b"".join(map(varint, labels)))
    else:
        numbers = b"".join(varint(1 << 3) + varint(label) for label in labels)
    entries = [
        field(1, IMAGE.encode()) + field(2, field(1, field(1, b"pixels"))),
        field(1, LABEL.encode()) + field(2, field(3, numbers)),
    ]
    data = field(1, b"".join(field(1, entry) for entry in entries))
    assert parse(data) == by_protobuf(data) == (b"pixels", labels[0] if labels else None)


KEYS = st.sampled_from([IMAGE, LABEL, "image/class/text", ""])
UNKNOWN = st.sampled_from(
    [
        varint(99 << 3) + b"\x05",
        field(15, b"later"),
        varint(77 << 3 | 1) + bytes(8),
        varint(78 << 3 | 5) + bytes(4),
    ]
)


def lists(values, written):
    """A list's fields: its values one by one, or packed, with unknown fields between."""
    return st.lists(st.one_of(values.map(written), UNKNOWN), max_size=4).map(b"".join)


BYTES = lists(st.binary(max_size=6), lambda value: field(1, value))
NUMBERS = st.integers(-(2**63), 2**63 - 1)
INTEGERS = st.one_of(
    lists(NUMBERS, lambda value: varint(1 << 3) + varint(value)),
    lists(st.lists(NUMBERS, max_size=3), lambda some: field(1, b"".join(map(varint, some)))),
)
# A Feature may name several kinds of list, or one in pieces; protobuf says what that means.
FEATURE = st.lists(
    st.one_of(
        BYTES.map(lambda content: field(1, content)),
        INTEGERS.map(lambda content: field(3, content)),
        st.just(field(2, field(1, bytes(8)))),
        UNKNOWN,
    ),
    max_size=3,
).map(b"".join)
# No unknown fields here: some releases of protobuf refuse them in a map's entry.
ENTRY = st.builds(
    lambda key, feature, order: b"".join([field(1, key.encode()), field(2, feature)][::order]),
    KEYS,
    FEATURE,
    st.sampled_from([1, -1]),
)
MESSAGE = st.lists(
    st.one_of(
        st.lists(ENTRY, max_size=4).map(
            lambda entries: field(1, b"".join(field(1, entry) for entry in entries))
        ),
        UNKNOWN,
    ),
    max_size=3,
).map(b"".join)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGE)
def test_whatever_way_a_message_is_written_protobuf_reads_the_same(data):
    assert outcome(parse, data) == outcome(by_protobuf, data)


WHOLE = example_proto.example(
    {"image/filename": "name", IMAGE: b"pixels", LABEL: 1000, "box": [0.5, 1.0]}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
@with_example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@with_example(b"\xff" * 40)
def test_any_bytes_are_parsed_or_refused(data):
    outcome(parse, data)


def test_damaged_examples_are_parsed_or_refused():
    rng = random.Random(0)
    for _ in range(20000):
        data = bytearray(WHOLE)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            change = rng.randrange(3)
            if change == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif change == 1:
                del data[place : place + rng.randint(1, 5)]
            else:
                data[place:place] = bytes(rng.randrange(256) for _ in range(3))
        outcome(parse, bytes(data))


def test_an_example_cut_anywhere_is_malformed():
    for size in range(1, len(WHOLE)):
        with pytest.raises(ValueError, match=r"not a well-formed tf\.train\.Example"):
            parse(WHOLE[:size])


@pytest.mark.parametrize(
    "features", [{}, {LABEL: 1}, {IMAGE: 1}, {IMAGE: b""}, {IMAGE: []}, {IMAGE: 0.5}]
)
def test_a_missing_image_is_named(features):
    with pytest.raises(ValueError, match="no feature 'image/encoded'"):
        parse(example_proto.example(features))


@pytest.mark.parametrize("label", ["cat", 1.5, []])
def test_a_label_that_is_no_whole_number_is_none(label):
    assert parse(example_proto.example({IMAGE: b"pixels", LABEL: label})) == (b"pixels", None)
