"""What values look like as messages: a `Codec` for each type, found by the type or by its fingerprint.

A message of type `bytes` is the bytes themselves and needs no codec. Every other type has a fingerprint of 64
bits, which is stored in the object: a process with another type is refused. The codecs of NumPy arrays, of
pickle and of msgspec stand in a module each and are imported when they are asked for.
"""

from typing import Any

from ._base import Codec

__all__ = ["Codec", "array_at", "array_layout", "codec_for", "known"]

BYTES = 0
"""Fingerprints of the types that one need not name to open what exists. That of bytes is 0."""
OBJECT = 0x88A1_5EF6_0AF2_F20E
ARRAY = 0x0A61_06AF_1427_1FFB


def codec_for(type: Any) -> Codec | None:
    """The codec of a type; None for `bytes`, whose messages are sent as they are.

    `type` is `bytes`, `object`, `numpy.ndarray`, a `Codec`, or what msgspec knows: a Struct, dataclass,
    TypedDict, NamedTuple or enum, a builtin type, a generic such as `list[int]`, a union such as
    `Job | Cancel`. Anything else, such as a value instead of its type, is a TypeError.
    """
    if type is bytes:
        return None
    if isinstance(type, Codec):
        return type
    if type is object:
        from . import _object

        return _object.CODEC
    if getattr(type, "__module__", "") == "numpy" and getattr(type, "__name__", "") == "ndarray":
        from . import _array

        if type is _array.CODEC.made_of:
            return _array.CODEC
    if type is None:
        raise TypeError("type=None is no type; leave it out, or take type=bytes or type=object")
    from . import _message

    return _message.codec(type)


def known(fingerprint: int) -> Codec | None:
    """The codec for `bytes` (None), `object`, `numpy.ndarray` and the plain builtin types by fingerprint.

    Other types are known only to who has them: LookupError.
    """
    if fingerprint == BYTES:
        return None
    if fingerprint == OBJECT:
        return codec_for(object)
    if fingerprint == ARRAY:
        from . import _array

        return _array.CODEC
    from . import _message

    return _message.builtin(fingerprint)


def array_layout(shape: Any, dtype: Any = None) -> tuple[bytes, int]:
    """For an array to be filled in its message: the header, and how many bytes both take.

    `shape` is a number or a sequence of numbers, `dtype` what NumPy takes for one (float64 when None).
    """
    from . import _array

    return _array.layout(shape, dtype)


def array_at(buffer: Any, header: bytes) -> Any:
    """The array to fill in a buffer of that size, behind `header`, which is not written there by this.

    It holds the buffer as a memoryview does. What the buffer holds is not read.
    """
    from . import _array

    return _array.at(buffer, header)
