"""Objects instead of bytes: typed queues beside multiprocessing.Queue, which pickles."""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from typing import Any

from .base import Channel, Place, Receiver, Sender
from .isthmus_peer import QUEUE, namespace
from .standard import QUEUE as MP_QUEUE
from .standard import MpQueueChannel

DICT = {"id": 17, "name": "resize", "scale": 0.5}


@functools.cache
def struct() -> Any:
    """A small msgspec.Struct, which pickle finds under its name here."""
    msgspec = importlib.import_module("msgspec")
    fields = [("id", int), ("name", str), ("scale", float)]
    return msgspec.defstruct("Job", fields, module=__name__)


def __getattr__(name: str) -> Any:
    if name == "Job":
        return struct()
    raise AttributeError(name)


class TypedChannel(Channel):
    def __init__(self, place: Place, size: int, kind: Any = object) -> None:
        self.place, self.kind = place, kind

    def open(self) -> Any:
        kind = struct() if self.kind == "struct" else self.kind
        queue = importlib.import_module("isthmus").Queue
        return queue(self.place.name, type=kind, namespace=namespace(self.place))

    def sender(self) -> Sender:
        queue = self.open()
        return Sender(queue.put, queue.put_many, keep=queue)

    def receiver(self) -> Receiver:
        queue = self.open()
        return Receiver(queue.get, queue.get_many, keep=queue, unwrap=same)


class ObjectChannel(MpQueueChannel):
    def receiver(self) -> Receiver:
        return replace(super().receiver(), unwrap=same)


class StructChannel(TypedChannel):
    def __init__(self, place: Place, size: int) -> None:
        super().__init__(place, size, "struct")


def same(message: Any) -> Any:
    return message


PICKLED = replace(QUEUE, connect=TypedChannel, note="`type=object`")
STRUCTS = replace(QUEUE, connect=StructChannel, note="`type=` a msgspec.Struct")
MP_OBJECTS = replace(MP_QUEUE, connect=ObjectChannel, note="pickles; bounded")
