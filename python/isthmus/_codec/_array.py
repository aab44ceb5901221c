"""`type=numpy.ndarray`: a message is an array in the .npy format, header and data.

The header says dtype, shape and order, and is padded so that the data begins at a multiple of 64. It is made
and read once for each kind of array and remembered. One that is read is never trusted: whatever is wrong with
it is a ValueError.
"""

import ast
import io
import math
import sys
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from . import ARRAY
from ._base import Codec

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
    DType = np.dtype[Any]

_MAGIC = b"\x93NUMPY"
_LENGTH_AT = 8
"""Where the length of the text stands, after the magic and two bytes of version; it has two bytes itself."""
_TEXT_AT = 10
_HEADER_MAX = 10_000
"""Longer headers are not read; NumPy by itself trusts texts up to about this length too."""
_REMEMBERED = 256
"""Kinds of array remembered each way; then all are forgotten, which costs some 20 us for each to come."""


class _Layout(NamedTuple):
    dtype: "DType"
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    elements: int
    data: int
    """Where the elements begin."""
    total: int
    """Bytes of the message."""


_headers: "dict[tuple[DType, tuple[int, ...], bool], bytes]" = {}
_layouts: dict[bytes, _Layout] = {}


def _unfit(dtype: "DType") -> str | None:
    """Why elements of this dtype cannot be bytes in a message; None where they can."""
    if dtype.hasobject:
        return "its elements are references to Python objects (type=object takes it)"
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        return "its elements have no size of their own"
    return None


def _header(dtype: "DType", shape: tuple[int, ...], fortran: bool) -> bytes:
    """The header of such arrays; TypeError where the .npy format cannot say what they are."""
    key = (dtype, shape, fortran)
    if (header := _headers.get(key)) is not None:
        return header
    if why := _unfit(dtype):
        raise TypeError(f"an array of dtype {dtype} cannot be sent: {why}")
    try:
        description: Any = npy.dtype_to_descr(dtype)
        if npy.descr_to_dtype(description) != dtype:
            description = None
    except (TypeError, ValueError):
        description = None
    if description is None:
        raise TypeError(f"an array of dtype {dtype} cannot be sent: the .npy format cannot describe it")
    out = io.BytesIO()
    fields = {"descr": description, "fortran_order": fortran, "shape": shape}
    try:
        npy.write_array_header_1_0(out, fields)
    except (UnicodeEncodeError, ValueError):  # names beyond Latin-1
        raise TypeError(f"an array of dtype {dtype} cannot be sent: names of fields beyond Latin-1") from None
    header = out.getvalue()
    if len(header) > _HEADER_MAX:
        raise TypeError(f"an array of dtype {dtype} cannot be sent: it takes too many words to describe")
    if len(_headers) >= _REMEMBERED:
        _headers.clear()
    _headers[key] = header
    return header


def encode(array: "Array", /) -> tuple[bytes, "Array"]:
    """Header and data. An array in neither C nor Fortran order is copied into C order."""
    if type(array) is not np.ndarray:
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"a numpy.ndarray is needed, not {type(array).__qualname__}; "
                "numpy.asarray or numpy.from_dlpack makes one"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError("a masked array cannot be sent as numpy.ndarray: its mask would be lost")
    flags = array.flags
    if flags.c_contiguous:
        return _header(array.dtype, array.shape, False), array
    if flags.f_contiguous:
        return _header(array.dtype, array.shape, True), array.T
    return _header(array.dtype, array.shape, False), np.ascontiguousarray(array)


def _layout(header: bytes) -> _Layout:
    """What a header says; ValueError when it says nothing good."""
    if (layout := _layouts.get(header)) is not None:
        return layout
    try:
        layout = _read(header)
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError,
        ValueError, Warning,
    ) as problem:  # fmt: skip
        raise ValueError(f"damaged message of type numpy.ndarray: {problem}") from None
    if len(_layouts) >= _REMEMBERED:
        _layouts.clear()
    _layouts[header] = layout
    return layout


def _read(header: bytes) -> _Layout:
    if header[: len(_MAGIC)] != _MAGIC or header[len(_MAGIC) : _LENGTH_AT] != b"\x01\x00":
        raise ValueError("it does not begin as the .npy format 1.0 does")
    if len(header) != _TEXT_AT + header[_LENGTH_AT] + (header[_LENGTH_AT + 1] << 8):
        raise ValueError("its header is too long, or cut short")
    fields = ast.literal_eval(header[_TEXT_AT:].decode("latin1"))
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header has other fields than descr, fortran_order and shape")
    description: Any = fields["descr"]
    fortran, shape = fields["fortran_order"], fields["shape"]
    if not isinstance(description, (str, list)) or not isinstance(fortran, bool):
        raise ValueError("its header says neither dtype nor order")
    if not isinstance(shape, tuple) or not all(
        type(size) is int and 0 <= size <= sys.maxsize for size in shape
    ):
        raise ValueError(f"shape {shape!r}")
    dtype = npy.descr_to_dtype(description)  # type: ignore[arg-type,unused-ignore]
    if why := _unfit(dtype):
        raise ValueError(why)
    elements, data = math.prod(shape), len(header)
    return _Layout(dtype, shape, "F" if fortran else "C", elements, data, data + elements * dtype.itemsize)


def _opened(buffer: Any) -> tuple[memoryview, _Layout]:
    """A message and what its header says; ValueError where it is no array."""
    message = memoryview(buffer)
    data = _TEXT_AT
    if message.nbytes >= data:
        data += message[_LENGTH_AT] + (message[_LENGTH_AT + 1] << 8)
    # One copy of the header is checked and used: what is in the buffer may be changed by another process.
    return message, _fits(message, _layout(bytes(message[: min(data, _HEADER_MAX)])))


def _fits(message: memoryview, layout: _Layout) -> _Layout:
    if message.nbytes != layout.total:
        raise ValueError(
            f"damaged message of type numpy.ndarray: shape {layout.shape} of {layout.dtype} "
            f"takes {layout.total} bytes, and it has {message.nbytes}"
        )
    return layout


def _in_place(message: memoryview, layout: _Layout) -> "Array":
    """The array in the memory of a message. It holds the buffer as a memoryview does."""
    if not layout.elements:
        empty = np.empty(layout.shape, layout.dtype)
        empty.flags.writeable = not message.readonly
        return empty
    # Not numpy.ndarray(buffer=…): that lets go of the buffer at once, and trusts that its memory stays.
    flat = np.frombuffer(message, layout.dtype, layout.elements, layout.data)
    return flat.reshape(layout.shape, order=layout.order)


def decode_view(buffer: Any, /) -> "Array":
    """The array where it is, writable when the buffer is. It holds the buffer as a memoryview does."""
    return _in_place(*_opened(buffer))


def decode(buffer: Any, /) -> "Array":
    """The array in memory of its own, writable."""
    message, layout = _opened(buffer)
    return np.ndarray(layout.shape, layout.dtype, message, layout.data, order=layout.order).copy("K")


def layout(shape: Any, dtype: Any) -> tuple[bytes, int]:
    """See `isthmus._codec.array_layout`."""
    sizes = tuple(index(size) for size in shape) if np.iterable(shape) else (index(shape),)
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative dimensions in shape {shape!r}")
    header = _header(np.dtype(dtype), sizes, False)
    return header, _layout(header).total


def at(buffer: Any, header: bytes) -> "Array":
    """See `isthmus._codec.array_at`."""
    message = memoryview(buffer)
    return _in_place(message, _fits(message, _layout(header)))


CODEC = Codec.made(
    name="numpy.ndarray",
    fingerprint=ARRAY,
    encode=encode,
    decode=decode,
    decode_view=decode_view,
    made_of=np.ndarray,
)
