"""The messages of the demo: every one is bytes, built and taken apart here.

Numbers are 8 bytes long, little endian. On the queue of tasks each message is a piece of text::

    number | where it ends, counted in bytes through all files | text

On the queue of results a letter says what follows::

    P | JSON       the reader's plan, before it reads: files, bytes
    R | number | length | where it ends | worker's pid | how often it was handed out | JSON
                   a worker's result: {word: times}
    E | JSON       the reader's end: pieces, files, skipped, notes, where the last piece ended
    X | JSON       a process gives up: what it says
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

_TASK = struct.Struct("<QQ")
_RESULT = struct.Struct("<cQQQQQ")


class Task(NamedTuple):
    """One piece of text."""

    number: int
    end: int
    text: bytes


class Result(NamedTuple):
    """What a worker found in one piece."""

    number: int
    length: int
    end: int
    pid: int
    deliveries: int
    counts: dict[str, int]


class Note(NamedTuple):
    """A message that carries a small dictionary: ``P``, ``E`` or ``X``."""

    kind: str
    body: dict[str, Any]


def task(number: int, end: int, piece: bytes) -> bytes:
    """Build a task."""
    return _TASK.pack(number, end) + piece


def read_task(message: bytes) -> Task:
    """Take a task apart."""
    number, end = _TASK.unpack_from(message)
    return Task(number, end, message[_TASK.size :])


def result(task: Task, pid: int, deliveries: int, counts: dict[str, int]) -> bytes:
    """Build a result."""
    words = json.dumps(counts, ensure_ascii=False, separators=(",", ":"))
    return _RESULT.pack(b"R", task.number, len(task.text), task.end, pid, deliveries) + words.encode()


def note(kind: str, body: dict[str, Any]) -> bytes:
    """Build a message of kind ``P``, ``E`` or ``X``."""
    return kind.encode() + json.dumps(body).encode()


def read(message: bytes) -> Result | Note:
    """Take apart what came on the queue of results."""
    if message[:1] == b"R":
        _, number, length, end, pid, deliveries = _RESULT.unpack_from(message)
        return Result(number, length, end, pid, deliveries, json.loads(message[_RESULT.size :]))
    return Note(message[:1].decode(), json.loads(message[1:]))
