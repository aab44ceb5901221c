"""The messages of the demo: every one is bytes, built and taken apart here.

On the queue of tasks each message is a piece of text behind its number::

    number (8 bytes, little endian) | text

On the queue of results a letter says what follows::

    P | JSON       the reader's plan, before it reads: files, bytes
    R | number | length of the piece (8 bytes each) | JSON      a worker's result: {word: times}
    E | JSON       the reader's end: pieces, files, skipped, notes
    X | JSON       a process gives up: what it says
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

_NUMBER = struct.Struct("<Q")
_RESULT = struct.Struct("<cQQ")


class Result(NamedTuple):
    """What a worker found in one piece."""

    number: int
    length: int
    counts: dict[str, int]


class Note(NamedTuple):
    """A message that carries a small dictionary: ``P``, ``E`` or ``X``."""

    kind: str
    body: dict[str, Any]


def task(number: int, piece: bytes) -> bytes:
    """Build a task."""
    return _NUMBER.pack(number) + piece


def read_task(message: bytes) -> tuple[int, bytes]:
    """Take a task apart: its number and its piece of text."""
    return _NUMBER.unpack_from(message)[0], message[_NUMBER.size :]


def result(number: int, length: int, counts: dict[str, int]) -> bytes:
    """Build a result."""
    words = json.dumps(counts, ensure_ascii=False, separators=(",", ":"))
    return _RESULT.pack(b"R", number, length) + words.encode()


def note(kind: str, body: dict[str, Any]) -> bytes:
    """Build a message of kind ``P``, ``E`` or ``X``."""
    return kind.encode() + json.dumps(body).encode()


def read(message: bytes) -> Result | Note:
    """Take apart what came on the queue of results."""
    if message[:1] == b"R":
        _, number, length = _RESULT.unpack_from(message)
        return Result(number, length, json.loads(message[_RESULT.size :]))
    return Note(message[:1].decode(), json.loads(message[1:]))
