"""Types of elements in raw memory: what `dtype=` takes, with and without NumPy.

A type is one of these:

- a format of `struct` and `array` for one native number: `"d"`, `"i"`, `"B"`;
- a name or a code of NumPy: `"float64"`, `"<f4"`, `"u2"`; or `bool`, `int` (64 bits), `float` (64 bits);
- where NumPy is installed, whatever it makes a dtype of, except references to Python objects.

Those of the first two kinds work without NumPy, and do not import it.
"""

import ast
import sys
from importlib.util import find_spec
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import CorruptError, Unsupported

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Elements", "elements", "has_numpy", "read_description", "shape_of"]

_NATIVE = "<" if sys.byteorder == "little" else ">"

# NumPy's code and the format of struct for it.
_FORMATS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_NAMES = {
    "bool": "b1", "int": "i8", "float": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float16": "f2", "float32": "f4", "float64": "f8",
    "l": "i8", "L": "u8",
    **{letter: code for code, letter in _FORMATS.items()},
}  # fmt: skip


def _casts(letter: str) -> bool:
    try:
        memoryview(bytes(8)).cast(letter)  # type: ignore[call-overload]
    except ValueError:
        return False
    return True


_HALF = _casts("e")
"""Whether the `memoryview` of this Python has numbers of 16 bits."""


class Elements(NamedTuple):
    """A type of elements."""

    code: str
    """How it is written down: `"<f8"`, or a list of fields as text."""
    itemsize: int
    """Bytes of one element."""
    format: str | None
    """The format that `memoryview` has for it; None where it has none."""

    def dtype(self) -> "np.dtype[Any]":
        """The dtype; needs NumPy."""
        return _dtype(self.code)

    def describe(self, shape: tuple[int, ...]) -> bytes:
        """Text that `read_description` reads."""
        return repr((self.code, shape)).encode()

    def __str__(self) -> str:
        return self.code


BYTES = Elements("|u1", 1, "B")
"""What memory is made of."""


def has_numpy() -> bool:
    """Tells whether NumPy is installed, without importing it."""
    return "numpy" in sys.modules or find_spec("numpy") is not None


def elements(dtype: Any) -> Elements:
    """The type that `dtype` says; `TypeError` for what cannot lie in shared memory."""
    simple = _simple(dtype)
    if simple is not None:
        return simple
    if not has_numpy():
        raise Unsupported(
            f"dtype {dtype!r} needs numpy, which is not installed; without it there are "
            f"{', '.join(_FORMATS.values())} and the names of NumPy for them"
        )
    import numpy as np
    from numpy.lib import format as npy

    asked = np.dtype(dtype)
    if (simple := _simple(asked.str)) is not None and asked.names is None and asked.subdtype is None:
        return simple
    if asked.hasobject:
        raise TypeError(f"dtype {asked}: its elements are references to Python objects of one process")
    if asked.itemsize == 0 or asked.subdtype is not None:
        raise TypeError(f"dtype {asked}: its elements have no size of their own")
    try:
        descr: Any = npy.dtype_to_descr(asked)
        known = npy.descr_to_dtype(descr) == asked
    except (TypeError, ValueError):
        known = False
        descr = None
    if not known:
        raise TypeError(f"dtype {asked} cannot be written down for other processes")
    return Elements(descr if isinstance(descr, str) else repr(descr), asked.itemsize, None)


def _dtype(code: str) -> "np.dtype[Any]":
    from numpy.lib import format as npy

    return npy.descr_to_dtype(ast.literal_eval(code) if code.startswith("[") else code)  # type: ignore[arg-type,unused-ignore]


def _simple(dtype: Any) -> Elements | None:
    """A type that needs no NumPy; None for all others."""
    if dtype in (bool, int, float):
        dtype = dtype.__name__
    if not isinstance(dtype, str):
        return None
    order, code = _NATIVE, _NAMES.get(dtype)
    if code is None:
        code = dtype.lstrip("<>=|@")
        order = dtype[: len(dtype) - len(code)].replace("=", _NATIVE).replace("@", _NATIVE) or _NATIVE
        if code not in _FORMATS or len(order) > 1:
            return None
    size = int(code[1:])
    if size == 1:
        order = "|"
    elif order == "|":
        return None
    native = order in ("|", _NATIVE) and (code != "f2" or _HALF)
    return Elements(order + code, size, _FORMATS[code] if native else None)


def shape_of(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple; `ValueError` for negative sizes, `OverflowError` for more than memory can have."""
    sizes = tuple(index(size) for size in (shape if hasattr(shape, "__iter__") else (shape,)))
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape {shape!r}: it takes sizes from 0 upwards")
    if prod(size for size in sizes if size) > sys.maxsize:
        raise OverflowError(f"shape {shape!r} has more elements than memory can have")
    return sizes


def read_description(text: bytes) -> tuple[Elements, tuple[int, ...]] | None:
    """What `Elements.describe` has written; None where nothing is written, `CorruptError` for nonsense."""
    if not text:
        return None
    try:
        code, shape = ast.literal_eval(text.decode())
        if not isinstance(code, str) or not isinstance(shape, tuple):
            raise TypeError("neither dtype nor shape")
        kind = _simple(code)
        if kind is None:
            kind = elements(_dtype(code) if has_numpy() else code)
        return kind, shape_of(shape)
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
        Warning,
    ) as error:
        raise CorruptError(f"what is written of the array is damaged: {text[:80]!r} ({error})") from None
