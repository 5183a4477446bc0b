"""The messages tf.train.Example and tf.train.SequenceExample, without TensorFlow: protobuf makes the types from their published
field numbers (tensorflow/core/example/feature.proto and example.proto).

A SequenceExample's `context` has the number of an Example's `features`, so that both are read as one message: an Example is
one without feature lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from data_tools.tfrecord import not_installed

Values = Sequence[bytes] | Sequence[int] | np.ndarray  # of one feature; an array is written as float32
# (message, its fields: (name, number, type, whether it is repeated)); a type with a capital letter is a message.
_MESSAGES: tuple[tuple[str, tuple[tuple[str, int, str, bool], ...]], ...] = (
    ("BytesList", (("value", 1, "bytes", True),)),
    ("FloatList", (("value", 1, "float", True),)),
    ("Int64List", (("value", 1, "int64", True),)),
    ("Feature", (("bytes_list", 1, "BytesList", False), ("float_list", 2, "FloatList", False),
                 ("int64_list", 3, "Int64List", False))),
    ("FeatureList", (("feature", 1, "Feature", True),)),
)  # fmt: skip
_MAPS = (("Features", "feature", "Feature"), ("FeatureLists", "feature_list", "FeatureList"))
_PACKAGE = "tensorflow"


@lru_cache(maxsize=1)
def _sequence_example() -> Any:
    """The class of the message. Raises UsageError where protobuf is not installed."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError:
        raise not_installed("protobuf") from None
    kinds: Any = descriptor_pb2.FieldDescriptorProto
    scalar = {"bytes": kinds.TYPE_BYTES, "float": kinds.TYPE_FLOAT, "int64": kinds.TYPE_INT64}
    scalar["string"] = kinds.TYPE_STRING
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package=_PACKAGE, syntax="proto3")

    def add(message: Any, name: str, number: int, kind: str, is_repeated: bool, inside: str = "") -> Any:
        field = message.field.add(name=name, number=number)
        field.label = kinds.LABEL_REPEATED if is_repeated else kinds.LABEL_OPTIONAL
        field.type = scalar.get(kind, kinds.TYPE_MESSAGE)
        if kind not in scalar:
            field.type_name = f".{_PACKAGE}.{inside}{kind}"
        return field

    for name, fields in _MESSAGES:
        message = file.message_type.add(name=name)
        for field in fields:
            add(message, *field)
        if name == "Feature":
            message.oneof_decl.add(name="kind")
            for field in message.field:
                field.oneof_index = 0
    for name, field_name, value in _MAPS:
        message = file.message_type.add(name=name)
        entry_name = "".join(word.capitalize() for word in field_name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        add(entry, "key", 1, "string", False)
        add(entry, "value", 2, value, False)
        add(message, field_name, 1, entry_name, True, inside=f"{name}.")
    message = file.message_type.add(name="SequenceExample")
    add(message, "context", 1, "Features", False)
    add(message, "feature_lists", 2, "FeatureLists", False)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.SequenceExample"))


def parse(data: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(features, feature lists) of an Example or SequenceExample, by name; an Example has no lists.

    A feature has `bytes_list`, `float_list` or `int64_list`, each with `value`, of which one has values; a list has `feature`.
    Raises ValueError for bytes that are no such message. Memory: at most about 25 times `data`, where it holds nothing but
    empty features.
    """
    sequence_example = _sequence_example()
    from google.protobuf.message import DecodeError

    try:
        message = sequence_example.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return dict(message.context.feature), dict(message.feature_lists.feature_list)


def serialise(features: Mapping[str, Values], lists: Mapping[str, Sequence[Values]] | None = None) -> bytes:
    """The bytes of an Example, or with `lists` of a SequenceExample, whose lists have one feature of values a frame."""
    message = _sequence_example()()
    for name, values in features.items():
        _fill(message.context.feature[name], values)
    for name, frames in (lists or {}).items():
        feature_list = message.feature_lists.feature_list[name]
        for values in frames:
            _fill(feature_list.feature.add(), values)
    return message.SerializeToString(deterministic=True)


def _fill(feature: Any, values: Values) -> None:
    if isinstance(values, np.ndarray):
        feature.float_list.value.extend(values.astype(np.float32).tolist())
    elif values and isinstance(values[0], bytes):
        feature.bytes_list.value.extend(values)
    else:
        feature.int64_list.value.extend(values)
