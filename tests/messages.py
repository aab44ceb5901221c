"""Messages without a queue: what a value becomes and what arrives of it; and types to send."""

from __future__ import annotations

import dataclasses
import enum
import typing
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from isthmus._codec import Codec, codec_for


def codec(type: Any) -> Codec:
    """The codec of a type that has one."""
    found = codec_for(type)
    assert found is not None
    return found


def message(type: Any, value: Any) -> bytes:
    """The whole message that a value makes."""
    made: Any = codec(type).encode(value)
    return b"".join(made) if isinstance(made, tuple) else bytes(made)


def sent(type: Any, value: Any) -> Any:
    """What arrives of a value, taken out of memory that is gone afterwards."""
    memory = bytearray(message(type, value))
    arrived = codec(type).decode(memoryview(memory))
    memory.extend(b"!")  # BufferError if anything still points into it
    memory[:] = b"\xff" * len(memory)
    return arrived


class Job(msgspec.Struct):
    id: int
    path: str
    size: float = 0.0


class Cancel(msgspec.Struct, tag="cancel"):
    id: int


class Run(msgspec.Struct, tag="run"):
    id: int


class Row(msgspec.Struct, array_like=True):
    id: int
    text: str = ""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    id: int
    text: str = ""


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    depth: typing.Required[int]
    name: str


class Pair(NamedTuple):
    left: int
    right: str = ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    inside: T


class Tree(msgspec.Struct):
    value: int
    children: list[Tree]


class SpecialJob(Job):
    extra: int = 5


class Thing:
    """Nothing that msgspec knows."""


class Holder(msgspec.Struct):
    thing: Thing


@dataclasses.dataclass
class Unresolved:
    of: Nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the point
