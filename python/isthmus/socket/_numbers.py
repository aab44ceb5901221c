"""Numbers on datagrams, so that loss, reordering and duplicates can be seen.

    0   magic, 89 "ISD"                                   (4 bytes)
    4   lower half of the type's fingerprint              (4, little endian as all numbers)
    8   source: which socket this is, random              (8)
    16  number, from 0, one more with each datagram       (8)
    24  the message

A source that stops and starts again is another source. Datagrams to several receivers count together, so
numbers say something where all go to one address, a multicast group included.
"""

import os
import struct
from collections import OrderedDict
from typing import NamedTuple

__all__ = ["HEADER_SIZE", "DatagramStats", "Numbers"]

_MAGIC = b"\x89ISD"
_HEADER = struct.Struct("<4sIQQ")
HEADER_SIZE = _HEADER.size
_SOURCES = 1024
"""Sources remembered; the one that was silent for longest is forgotten first."""
_WINDOW = 1024
"""Numbers back from the highest within which a late datagram is told from a duplicate."""
_MASK = (1 << _WINDOW) - 1


class DatagramStats(NamedTuple):
    """What a socket for datagrams has seen."""

    received: int
    """Datagrams that were taken."""
    missing: int
    """Numbers that have not come (yet); 0 without numbers."""
    late: int
    """Came after one that was sent later."""
    duplicate: int
    """Came again, and were not given out."""
    too_large: int
    """Were larger than the limit."""
    invalid: int
    """Were not what they have to be."""
    denied: int
    """Came from a user who is not allowed, and were not given out."""


class _Source:
    __slots__ = ("highest", "seen")

    def __init__(self) -> None:
        self.highest = -1
        self.seen = 0  # bit n: number highest - n has come


class Numbers:
    """Gives numbers to what is sent, and reads those of what comes."""

    def __init__(self, fingerprint: int) -> None:
        self._type = fingerprint & 0xFFFF_FFFF
        self._begin()
        self._sources: OrderedDict[int, _Source] = OrderedDict()
        self.missing = 0
        self.late = 0
        self.duplicate = 0

    def _begin(self) -> None:
        self._process = os.getpid()
        self._source = int.from_bytes(os.urandom(8), "little")
        self._next = 0

    def header(self) -> bytes:
        """For the next datagram. A forked child is a source of its own."""
        if os.getpid() != self._process:
            self._begin()
        number, self._next = self._next, self._next + 1
        return _HEADER.pack(_MAGIC, self._type, self._source, number)

    def take_back(self) -> None:
        """The datagram with the last number was not sent."""
        self._next -= 1

    def read(self, data: bytes) -> tuple[int, int] | None:
        """The number of a datagram, and how many before it are newly missing; None for a duplicate.

        ValueError for one without a number, or of another type.
        """
        if len(data) < HEADER_SIZE or data[:4] != _MAGIC:
            raise ValueError(f"it has no number: it begins with {data[:24]!r}")
        _, kind, key, number = _HEADER.unpack_from(data)
        if kind != self._type:
            raise ValueError("it is of another type")
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source()
            source.highest = number - 1  # who comes in the middle has missed nothing
            if len(self._sources) > _SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(key)
        ahead = number - source.highest
        if ahead > 0:
            source.seen = (source.seen << ahead | 1) & _MASK if ahead < _WINDOW else 1
            source.highest = number
            self.missing += ahead - 1
            return number, ahead - 1
        if -ahead >= _WINDOW or source.seen >> -ahead & 1:
            self.duplicate += 1
            return None
        source.seen |= 1 << -ahead
        self.late += 1
        self.missing = max(0, self.missing - 1)
        return number, 0
