"""`q.reserve()` of a queue of arrays: the array lies in the message it will be."""

from types import TracebackType
from typing import Any

import numpy as np

from . import _core
from ._codec import array_at, array_layout

__all__ = ["ArrayReservation"]


class ArrayReservation:
    """An array to be filled and put; see `isthmus.Queue.reserve`."""

    __slots__ = ("_reservation", "array")

    array: np.ndarray[Any, Any]
    """The array, not initialised; read-only once it is put."""

    def __init__(
        self,
        queue: _core.Queue,
        shape: int | tuple[int, ...],
        dtype: Any,
        timeout: float | None,
        priority: int,
        within: Any = None,
    ) -> None:
        header, size = array_layout(shape, dtype)
        self._reservation = queue._reserve(size, timeout, priority, within)
        memory = memoryview(self._reservation)
        memory[: len(header)] = header
        self.array = array_at(memory, header)

    def put(self) -> None:
        """Puts the message."""
        # What was made of the array before stays writable; nothing can be done about that.
        self.array.flags.writeable = False
        self._reservation.put()

    def cancel(self) -> None:
        """Gives the memory back without putting anything."""
        self.array.flags.writeable = False
        self._reservation.cancel()

    def __enter__(self) -> np.ndarray[Any, Any]:
        return self.array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.array.flags.writeable = False
        self._reservation.__exit__(kind, error, trace)

    @property
    def _settled(self) -> bool:
        return self._reservation._settled

    def _put(self, within: Any) -> None:
        self.array.flags.writeable = False
        self._reservation._put(within)
