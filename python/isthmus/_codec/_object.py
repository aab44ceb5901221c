"""`type=object`: any value that pickle takes; large buffers stand beside the pickle, not in it.

A message without large buffers is the pickle itself and begins with 0x80. Otherwise:

    byte 0        1
    4             how many buffers there are (4 bytes, little endian, as all numbers here)
    8             length of the pickle (8 bytes)
    16            8 bytes for each buffer: its length, and 2**63 when it was read-only
    then          the pickle
    then          each buffer, at the next multiple of 64

The message ends with the last buffer. Where a buffer begins follows from the lengths and is not stored.
"""

import pickle
import sys
from struct import Struct, error, unpack_from
from typing import TYPE_CHECKING, Any, NoReturn

from . import OBJECT
from ._base import Codec

if TYPE_CHECKING:
    from ._base import Decode, Encode, Parts

_PICKLE = 0x80
_APART = 1
_HEAD = Struct("<B3xIQ")
_READ_ONLY = 1 << 63
_ALIGN = 64
_PADDING = bytes(_ALIGN)
_LARGE = 16 << 10
"""Bytes from which on a buffer stands apart. Measured, there and back: 100 buffers of 16 KiB cost as much in
the pickle as apart, of 32 KiB three times as much; one alone is 10 us cheaper in the pickle up to 200 KiB."""
_HUGE = 4 << 20
"""Bytes from which on NumPy asks for huge pages: four times as fast as a bytearray at 64 MiB."""

_NOTE = "type=object sends what pickle takes: no lambdas or local functions, open files, locks or generators"


class _LargeBufferError(Exception):
    """A buffer for which the message must be laid out."""


def _in_pickle(buffer: pickle.PickleBuffer) -> bool:
    if memoryview(buffer).nbytes < _LARGE:
        return True  # to pickle: take it in
    raise _LargeBufferError


def _encoder() -> "Encode":
    # Measured: a list for the buffers of each message costs 0.12 us, beside 0.6 us for a whole small dict. So
    # a message is taken for one without, and begun anew at the first large buffer. After one with large
    # buffers the next is expected to have some too, and is not begun twice.
    expected = False

    def encode(value: object, /) -> "Parts":
        nonlocal expected
        try:
            if not expected:
                return pickle.dumps(value, 5, buffer_callback=_in_pickle)
            parts = _lay_out(value)
            expected = type(parts) is tuple
            return parts
        except _LargeBufferError:
            pass
        except Exception as problem:
            problem.add_note(_NOTE)
            raise
        expected = True
        return encode(value)

    return encode


def _lay_out(value: object) -> "Parts":
    """The message in parts: all up to the first buffer, then buffers and padding in turn."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < _LARGE:
            return True
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous: pickle says so itself
            return True
        return False

    data = pickle.dumps(value, 5, buffer_callback=keep)
    if not buffers:
        return data
    lengths = b"".join(
        (buffer.nbytes | (_READ_ONLY if buffer.readonly else 0)).to_bytes(8, "little") for buffer in buffers
    )
    parts: list[bytes | memoryview] = [_HEAD.pack(_APART, len(buffers), len(data)) + lengths + data]
    end = len(parts[0])
    for buffer in buffers:
        if gap := -end % _ALIGN:
            parts.append(_PADDING[:gap])
        parts.append(buffer)
        end += gap + buffer.nbytes
    return tuple(parts)


def _places(message: memoryview) -> tuple[slice, list[tuple[slice, bool]]]:
    """Where the pickle and the buffers are, and which were read-only; ValueError where they cannot be."""
    size = message.nbytes
    try:
        _, count, length = _HEAD.unpack_from(message)
        entries: tuple[int, ...] = unpack_from(f"<{count}Q", message, _HEAD.size)
    except error as problem:
        raise ValueError(f"damaged message of type object: {problem}") from None
    start = _HEAD.size + 8 * count
    end = start + length
    data = slice(start, end)
    places = []
    for entry in entries:
        start = end + -end % _ALIGN
        end = start + (entry & ~_READ_ONLY)
        places.append((slice(start, end), bool(entry & _READ_ONLY)))
    if end != size:
        _refuse(f"its parts take {end} bytes, and it has {size}")
    return data, places


def _refuse(why: str) -> NoReturn:
    raise ValueError(f"damaged message of type object: {why}")


def _copy(source: memoryview, *, read_only: bool) -> Any:
    """The same bytes in memory of their own, writable where they were."""
    if read_only:
        return bytes(source)
    if source.nbytes >= _HUGE and (numpy := sys.modules.get("numpy")) is not None:
        return memoryview(numpy.frombuffer(source, numpy.uint8).copy())
    return bytearray(source)


def _decoder(*, copies: bool) -> "Decode":
    def decode(buffer: Any, /) -> object:
        message = buffer if type(buffer) is bytes else memoryview(buffer)
        first = message[0] if len(message) else None
        if first == _PICKLE:
            return pickle.loads(message)  # noqa: S301 - asked for by type=object
        if first != _APART:
            _refuse("it is empty" if first is None else f"it begins with byte {first:#04x}")
        message = memoryview(message)
        data, places = _places(message)
        buffers = [
            _copy(message[place], read_only=read_only) if copies else message[place]
            for place, read_only in places
        ]
        return pickle.loads(message[data], buffers=buffers)  # noqa: S301 - asked for by type=object

    return decode


CODEC = Codec.made(
    name="object",
    fingerprint=OBJECT,
    encode=_encoder(),
    decode=_decoder(copies=True),
    decode_view=_decoder(copies=False),
    made_of=object,
    plain=_PICKLE,
    decode_plain=pickle.loads,
)
