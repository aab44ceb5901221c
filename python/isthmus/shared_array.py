"""`SharedArray`: an array that processes share, with its type and shape."""

import os
from collections.abc import Iterator
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._elements import Elements, elements, has_numpy, read_description, shape_of
from ._errors import IncompatibleError
from ._posix_shm import is_posix
from ._segments import Mode
from ._viewing import array_of, view_of
from .shared_memory import SharedMemory, begin, described_by, now, restore, way

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SharedArray"]

_DESCRIPTION_MAX = 4000
"""Bytes; the core has room for some more."""


class SharedArray:
    """An array in shared memory; `array` shows it in place.

    `SharedArray(name, shape, dtype)` opens or creates it, `SharedArray.create` insists on new and
    `SharedArray.open` on existing. Names and lifetime are those of `SharedMemory`: a bare name (or `shm://`),
    `posix-shm:///`, or none for an anonymous one. Elements are zero at first; `dtype` is float64 unless it is
    given.

    Of a bare name, type and shape are stored: who opens it gives none, or the same; another is an
    `IncompatibleError` that says both. `posix-shm:///` stores nothing, so `dtype` has to be given; without a
    `shape` it has one dimension.

    `dtype` is a format of `array` and `struct` (`"d"`, `"i"`, `"B"`), a name (`"float32"`), or anything of
    which numpy makes a dtype, but references to objects. Without numpy the first two work, and `array` is a
    memoryview of that format and shape.

    `readonly`, `persistent`, `huge_pages`, `permissions` and `namespace` are those of `SharedMemory`. Nothing
    orders what several processes write; take a `Mutex` for that.
    """

    __slots__ = ("__weakref__", "_born", "_fixed", "_kind", "_memory")

    _born: tuple[int, ...]
    _fixed: tuple[int, ...] | None

    def __init__(
        self,
        name: str | None = None,
        shape: Any = None,
        dtype: Any = None,
        *,
        readonly: bool = False,
        persistent: bool | None = None,
        huge_pages: bool | int = False,
        permissions: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        mode: Mode = "open" if readonly else "open_or_create"
        if readonly and name is None:
            raise ValueError("readonly opens what exists, and an anonymous array is new")
        self._begin(name, mode, shape, dtype, readonly, persistent, huge_pages, permissions, namespace)

    @classmethod
    def create(
        cls,
        name: str,
        shape: Any,
        dtype: Any = None,
        *,
        persistent: bool | None = None,
        huge_pages: bool | int = False,
        permissions: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates it; `FileExistsError` where the name is taken."""
        self = cls.__new__(cls)
        self._begin(name, "create", shape, dtype, False, persistent, huge_pages, permissions, namespace)
        return self

    @classmethod
    def open(
        cls,
        name: str,
        shape: Any = None,
        dtype: Any = None,
        *,
        readonly: bool = False,
        huge_pages: bool = False,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens what exists; `FileNotFoundError` where there is nothing."""
        self = cls.__new__(cls)
        self._begin(name, "open", shape, dtype, readonly, None, huge_pages, None, namespace)
        return self

    def _begin(
        self,
        name: str | None,
        mode: Mode,
        shape: Any,
        dtype: Any,
        readonly: bool,
        persistent: bool | None,
        huge_pages: bool | int,
        permissions: int | None,
        namespace: str | os.PathLike[str] | None,
    ) -> None:
        kind = elements("d" if dtype is None else dtype)
        sizes = None if shape is None else shape_of(shape)
        if sizes is None and (name is None or mode == "create"):
            raise TypeError("a new array takes a shape")
        described = b"" if sizes is None else kind.describe(sizes)
        size = None if sizes is None else prod(sizes) * kind.itemsize
        if is_posix(name):
            if dtype is None:
                raise TypeError(f"{name} does not store what its elements are: give dtype=")
            described = b""
        elif sizes is None or mode == "open":
            mode, size = "open", None
        if len(described) > _DESCRIPTION_MAX:
            raise TypeError(f"an array of dtype {kind} takes too many words to describe")
        memory = SharedMemory.__new__(SharedMemory)
        begin(memory, name, mode, size, described, readonly, persistent, huge_pages, permissions, namespace)
        self._memory = memory
        try:
            self._accept(name, kind if name is None or dtype is not None else None, sizes)
        except BaseException:
            memory.close()
            raise

    def _accept(self, name: str | None, kind: Elements | None, sizes: tuple[int, ...] | None) -> None:
        """Compares what is there with what was asked for."""
        self._fixed = None
        if name is None or is_posix(name):
            assert kind is not None
            self._kind, self._born = kind, (0,) if sizes is None else sizes
            # Their size may be more than that of the array: whole pages, or what a C program liked.
            exact = sizes is None or (name is None and self._memory.size == prod(sizes) * kind.itemsize)
            self._fixed = None if exact else sizes
            return
        stored = read_description(described_by(self._memory))
        if stored is None:
            raise IncompatibleError(f"{name} is memory without type and shape: open it as SharedMemory")
        self._kind, self._born = stored
        if kind not in (None, self._kind):
            raise IncompatibleError(f"the array {name} exists with dtype={self._kind}, asked for was {kind}")
        if sizes not in (None, self._born, self.shape):
            raise IncompatibleError(f"the array {name} exists with shape={self.shape}, asked for was {sizes}")
        if (needed := prod(self._born) * self._kind.itemsize) > self._memory.size:
            raise IncompatibleError(f"the array {name} has {self._memory.size} bytes, and takes {needed}")

    def _shape_in(self, size: int) -> tuple[int, ...]:
        """The shape in memory of `size` bytes: its first axis is as long as that allows."""
        if self._fixed is not None:
            return self._fixed
        row = prod(self._born[1:]) * self._kind.itemsize
        return (size // row, *self._born[1:]) if self._born and row else self._born

    @property
    def array(self) -> Any:
        """The array itself: of numpy where that is installed, else a memoryview; it stays valid.

        It is as large as the array is now: what grows later is seen by those asked for then.
        """
        if not has_numpy():
            return self.view()
        mapping = now(self._memory)
        return array_of(mapping, self._kind, self._shape_in(len(mapping)), 0)

    def view(self) -> "memoryview[Any]":
        """The array as a memoryview of its format and shape, with or without numpy.

        `Unsupported` for elements that a memoryview does not have.
        """
        mapping = now(self._memory)
        return view_of(mapping, self._kind, self._shape_in(len(mapping)), 0)

    @property
    def memory(self) -> SharedMemory:
        """The memory it lies in, for `seal()`, `fileno()` and the bytes."""
        return self._memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape now; others may make the first axis grow."""
        return self._shape_in(self._memory.size)

    @property
    def dtype(self) -> Any:
        """Type of its elements: a dtype of numpy where that is installed, else its code, such as `"<f8"`."""
        return self._kind.dtype() if has_numpy() else self._kind.code

    @property
    def nbytes(self) -> int:
        """Bytes of all its elements."""
        return prod(self.shape) * self._kind.itemsize

    @property
    def name(self) -> str | None:
        """The name as it was given, or None for an anonymous one or after `close()`."""
        return self._memory.name

    @property
    def readonly(self) -> bool:
        """True where it cannot be written to: opened so, or sealed."""
        return self._memory.readonly

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._memory.closed

    def grow(self, length: int) -> tuple[int, ...]:
        """Makes the first axis `length` long, if it is shorter, and returns the shape it has then.

        What is added is zero. Arrays and views made before stay valid and as they are. Of a `posix-shm:///`
        whose shape was given, and of huge pages, only this handle knows its new shape. Errors as of
        `SharedMemory.grow`; `ValueError` for an array without axes, or with rows of no bytes.
        """
        shape, (length,) = self.shape, shape_of(length)
        row = prod(shape[1:]) * self._kind.itemsize
        if not shape or not row:
            raise ValueError(f"an array of shape {shape} cannot grow: its first axis adds no memory")
        if length > shape[0]:
            self._memory.grow(length * row)
            if self._fixed is not None:
                self._fixed = (length, *shape[1:])
        return self.shape

    def close(self) -> None:
        """Ends this handle. Arrays that were made keep their memory. Closing twice does nothing."""
        self._memory.close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone."""
        self._memory.unlink()

    def __enter__(self) -> Self:
        self._memory.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        if not (shape := self.shape):
            raise TypeError("an array without axes has no length")
        return shape[0]

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        """What `numpy.asarray` calls: the array itself, unless another type or a copy is asked for."""
        import numpy as np

        found: np.ndarray[Any, Any] = self.array
        if copy is False and dtype is not None and np.dtype(dtype) != found.dtype:
            raise ValueError(f"an array of {found.dtype} is no array of {dtype} without a copy")
        return found.astype(found.dtype if dtype is None else dtype, copy=bool(copy))

    def __repr__(self) -> str:
        if self.closed:
            return f"<isthmus.{type(self).__name__} (closed)>"
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}, {self._kind} {self.shape}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # As its memory goes; type and shape beside it.
        return _restore, (type(self), *way(self._memory), self._kind.describe(self._born), self._fixed)


def _restore(
    cls: type[SharedArray],
    place: tuple[Any, ...],
    readonly: bool,
    huge: bool,
    described: bytes,
    fixed: tuple[int, ...] | None,
) -> SharedArray:
    self = cls.__new__(cls)
    self._memory = restore(SharedMemory, place, readonly, huge)
    stored = read_description(described)
    assert stored is not None
    self._kind, self._born = stored
    self._fixed = fixed
    return self
