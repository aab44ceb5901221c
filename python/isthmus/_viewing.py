"""Looking at mapped memory: raw, typed, as an array. A view keeps its mapping, open handle or not."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _core
from ._elements import BYTES, Elements, elements, shape_of
from ._errors import Unsupported

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

__all__ = ["Viewable", "array_of", "span", "view_of"]


def span(available: int, kind: Elements, shape: Any, offset: int) -> tuple[tuple[int, ...], int]:
    """Shape and bytes of a view; without a shape, of all there is. `ValueError` where it does not fit."""
    if not 0 <= offset <= available:
        raise ValueError(f"offset {offset}: there are {available} bytes")
    rest = available - offset
    if shape is None:
        if rest % kind.itemsize:
            raise ValueError(
                f"{rest} bytes from offset {offset} on are no whole number of elements {kind} of "
                f"{kind.itemsize} bytes; give the shape"
            )
        return (rest // kind.itemsize,), rest
    sizes = shape_of(shape)
    length = prod(sizes) * kind.itemsize
    if length > rest:
        raise ValueError(
            f"shape {sizes} of {kind} takes {length} bytes, and {rest} are there from offset {offset} on"
        )
    return sizes, length


def view_of(mapping: _core.Mapping, kind: Elements, shape: Any, offset: int) -> "memoryview[Any]":
    """A part of the memory as a memoryview."""
    if kind.format is None:
        raise Unsupported(
            f"a memoryview has no elements {kind}; array() of numpy has, view() shows the bytes"
        )
    sizes, length = span(len(mapping), kind, shape, offset)
    view: memoryview[Any] = memoryview(mapping)[offset : offset + length]
    cast: Any = view.cast
    if not length:
        view = cast(kind.format)  # a memoryview has no shape without elements but (0,)
    elif kind.format != "B" or len(sizes) != 1:
        view = cast(kind.format, sizes)
    return view


def array_of(mapping: _core.Mapping, kind: Elements, shape: Any, offset: int) -> "np.ndarray[Any, Any]":
    """A part of the memory as an array of NumPy."""
    import numpy as np

    sizes, length = span(len(mapping), kind, shape, offset)
    if not length:
        empty = np.empty(sizes, kind.dtype())
        empty.flags.writeable = mapping.writable
        return empty
    # Not numpy.ndarray(buffer=…): that lets go of the buffer at once, and trusts that its memory stays.
    flat: np.ndarray[Any, Any] = np.frombuffer(
        memoryview(mapping), kind.dtype(), length // kind.itemsize, offset
    )
    return flat.reshape(sizes)


class Viewable:
    """What `SharedMemory` and `MappedFile` have in common: bytes that can be looked at."""

    __slots__ = ()

    def _now(self) -> _core.Mapping:
        """All bytes there are now, mapped."""
        raise NotImplementedError

    def view(self, dtype: Any = None, shape: Any = None, *, offset: int = 0) -> "memoryview[Any]":
        """The memory itself as a memoryview: bytes, or elements of a type and in a shape.

        `dtype` is a format such as `"d"` or a name such as `"float32"`; numpy is not needed. Without a
        `shape`, all from `offset` (bytes) to the end. What has grown since is seen by views made then. A view
        stays valid when the handle is closed. `ValueError` where it does not fit, `Unsupported` for elements
        that a memoryview does not have.
        """
        return view_of(self._now(), BYTES if dtype is None else elements(dtype), shape, offset)

    def array(self, dtype: Any, shape: Any = None, *, offset: int = 0) -> "np.ndarray[Any, Any]":
        """The memory itself as a numpy array; arguments and errors as of `view()`."""
        return array_of(self._now(), elements(dtype), shape, offset)

    def __len__(self) -> int:
        return len(self._now())

    def __bytes__(self) -> bytes:
        return bytes(memoryview(self._now()))

    def __iter__(self) -> Iterator[int]:
        return iter(memoryview(self._now()))

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        """A byte as a number, or a view of a part."""
        return memoryview(self._now())[key]

    def __setitem__(self, key: SupportsIndex | slice, value: "int | Buffer") -> None:
        view: Any = memoryview(self._now())
        view[key] = value
