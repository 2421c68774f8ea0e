"""`tf.train.Example` with the protobuf runtime, without TensorFlow.

The message types are built here from descriptors. No code is generated, so this works with every
protobuf release from 3.9 on. The descriptors have a pool of their own, so they do not collide with
the same names in TensorFlow. The schema is that of tensorflow/core/example/example.proto and
feature.proto.
"""

from typing import Any, Dict, Iterable, List, Union

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise ImportError(
        'tf.train.Example needs protobuf: pip install "pretexture[reference]"'
    ) from error

Value = Union[bytes, str, int, float]

_Field = descriptor_pb2.FieldDescriptorProto


def _schema() -> Any:
    """The FileDescriptorProto of Example and of the messages in it."""
    file = descriptor_pb2.FileDescriptorProto()
    file.name = "pretexture/example.proto"
    file.package = "tensorflow"
    file.syntax = "proto3"

    def message(name: str) -> Any:
        return file.message_type.add(name=name)

    def field(owner: Any, name: str, number: int, kind: int, type_name: str = "", **more: Any):
        label = more.pop("label", _Field.LABEL_OPTIONAL)
        owner.field.add(
            name=name, number=number, type=kind, label=label, type_name=type_name or None, **more
        )

    for name, kind in (
        ("BytesList", _Field.TYPE_BYTES),
        ("FloatList", _Field.TYPE_FLOAT),
        ("Int64List", _Field.TYPE_INT64),
    ):
        field(message(name), "value", 1, kind, label=_Field.LABEL_REPEATED)

    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, type_name) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), 1
    ):
        field(feature, name, number, _Field.TYPE_MESSAGE, f".tensorflow.{type_name}", oneof_index=0)

    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, _Field.TYPE_STRING)
    field(entry, "value", 2, _Field.TYPE_MESSAGE, ".tensorflow.Feature")
    field(
        features,
        "feature",
        1,
        _Field.TYPE_MESSAGE,
        ".tensorflow.Features.FeatureEntry",
        label=_Field.LABEL_REPEATED,
    )
    field(message("Example"), "features", 1, _Field.TYPE_MESSAGE, ".tensorflow.Features")
    return file


def _message_classes() -> Dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_schema().SerializeToString())
    if hasattr(message_factory, "GetMessageClass"):  # protobuf 4.22 and later
        make = message_factory.GetMessageClass
    else:
        make = message_factory.MessageFactory(pool).GetPrototype
    names = ("BytesList", "FloatList", "Int64List", "Feature", "Features", "Features.FeatureEntry")
    return {
        name: make(pool.FindMessageTypeByName(f"tensorflow.{name}")) for name in (*names, "Example")
    }


# All classes are kept here, because some releases of protobuf's C runtime (such as 4.24) hold only
# weak references to the classes of submessages, and crash after one was collected.
_CLASSES = _message_classes()
Example: Any = _CLASSES["Example"]


def example(features: Dict[str, Union[Value, Iterable[Value]]]) -> bytes:
    """A serialised `tf.train.Example`; equal features give equal bytes on one protobuf release.

    Args:
        features: one value or several for each name: bytes or text (stored as UTF-8), whole numbers
            (stored as int64), or numbers of which at least one is a float (stored in single
            precision). NumPy numbers and arrays of one dimension are allowed, too.

    Raises: TypeError or ValueError naming the feature.
    """
    message = Example()
    for name, value in features.items():
        try:
            _fill(message.features.feature[name], _values(value))
        except TypeError as error:
            raise TypeError(f"feature {name!r}: {error}") from None
        except ValueError as error:
            raise ValueError(f"feature {name!r}: {error}") from None
    return message.SerializeToString(deterministic=True)


def parse_example(data: bytes) -> Dict[str, List[Value]]:
    """The values of each feature of a serialised `tf.train.Example`; text is given as bytes.

    Raises: ValueError if the data is not an Example.
    """
    message = Example()
    try:
        message.ParseFromString(bytes(data))
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from None
    return {
        name: list(getattr(feature, feature.WhichOneof("kind") or "bytes_list").value)
        for name, feature in message.features.feature.items()
    }


def _values(value: Any) -> List[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview, str, int, float)):
        return [value]
    if not hasattr(value, "__iter__"):
        raise TypeError(
            f"cannot store {type(value).__name__}; use bytes, text or numbers, or several of these"
        )
    return [item.tolist() if hasattr(item, "tolist") else item for item in value]


def _fill(feature: Any, values: List[Any]) -> None:
    if all(isinstance(item, (bytes, bytearray, memoryview, str)) for item in values):
        feature.bytes_list.value.extend(
            item.encode("utf-8") if isinstance(item, str) else bytes(item) for item in values
        )
    elif all(isinstance(item, int) for item in values):
        feature.int64_list.value.extend(int(item) for item in values)
    elif all(isinstance(item, (int, float)) for item in values):
        feature.float_list.value.extend(values)
    else:
        kinds = sorted({type(item).__name__ for item in values})
        raise TypeError(f"cannot store {', '.join(kinds)}; use bytes and text, or else numbers")
