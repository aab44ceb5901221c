"""`Fifo`: a pipe with a name in the file system, for unrelated processes, `cat` and `echo`.

Opening a FIFO waits until the other side opens it too, and two processes that open two FIFOs in different
order wait for ever. Here every descriptor is opened with O_NONBLOCK, which never waits: a reader is there at
once, and stays when writers come and go because it is opened for writing as well (`O_RDWR`, see fifo(7)); a
writer is refused (ENXIO) while nobody reads, and looks again until its timeout. What messages look like is
said in `_fifo_ends.py`.
"""

import contextlib
import os
import stat
import weakref
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

from ._descriptors import deadline_of
from ._errors import ClosedError, IncompatibleError
from ._fifo_ends import FifoReader, FifoWriter

__all__ = ["Fifo", "FifoReader", "FifoWriter"]

T = TypeVar("T")

LIMIT = 1 << 26
"""Bytes of the largest message, unless `limit` says otherwise: 64 MiB."""


class Fifo(Generic[T]):
    """A named pipe: `Fifo(path)` takes the FIFO at `path`, or makes it with `mode`.

    `Fifo.create` insists on a new one (FileExistsError), `Fifo.open` on one that exists (FileNotFoundError);
    what is at the path and is no FIFO is an `IncompatibleError`. `reader()` and `writer()` open its ends.

    Without a `type` bytes go through, as `cat` and `echo` write and read them: lines of up to 4096 bytes
    stay whole however many write. With a `type` messages do (as for `Pipe`), of up to `limit` bytes, whole
    however many write and whoever is killed. `mode` is exact, whatever the umask. See fifo(7).
    """

    @overload
    def __init__(
        self, path: str | os.PathLike[str], *, type: type[T], mode: int = 0o600, limit: int = LIMIT
    ) -> None: ...
    @overload
    def __init__(
        self: "Fifo[Any]",
        path: str | os.PathLike[str],
        *,
        type: Any = None,
        mode: int = 0o600,
        limit: int = LIMIT,
    ) -> None: ...
    def __init__(
        self, path: str | os.PathLike[str], *, type: Any = None, mode: int = 0o600, limit: int = LIMIT
    ) -> None:
        self._set_up(path, type, limit)
        if not os.path.lexists(self._path):
            with contextlib.suppress(FileExistsError):  # somebody was faster
                _make(self._path, mode)
        self._check()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, type: Any = None, mode: int = 0o600, limit: int = LIMIT
    ) -> "Fifo[Any]":
        """Makes the FIFO; FileExistsError where something has that path."""
        self: Fifo[Any] = cls.__new__(cls)
        self._set_up(path, type, limit)
        _make(self._path, mode)
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, type: Any = None, limit: int = LIMIT) -> "Fifo[Any]":
        """Takes the FIFO that exists; FileNotFoundError where there is none."""
        self: Fifo[Any] = cls.__new__(cls)
        self._set_up(path, type, limit)
        self._check()
        return self

    def _set_up(self, path: str | os.PathLike[str], type: Any, limit: int) -> None:
        if not 0 <= limit < 1 << 31:
            raise ValueError(f"limit={limit}: a message has 0 to {(1 << 31) - 1} bytes")
        self._path = os.fsdecode(path)
        self._type = type
        self._limit = limit
        self._closed = False
        self._ends: weakref.WeakSet[FifoReader[Any] | FifoWriter[Any]] = weakref.WeakSet()

    def _check(self) -> None:
        status = os.lstat(self._path)
        if not stat.S_ISFIFO(status.st_mode):
            raise IncompatibleError(f"{self._path} is no FIFO")

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path

    @property
    def type(self) -> Any:
        """What messages are; None where bytes go through."""
        return self._type

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._closed

    def reader(self, timeout: float | None = None, *, ends_with_writers: bool = False) -> FifoReader[T]:
        """Opens the end to read from; that does not wait for a writer.

        The reader stays when writers come and go. With `ends_with_writers` it comes to the end when there has
        been a writer and the last has closed, as `cat` does. Messages are read by one process at a time:
        `Timeout` when another still does after `timeout` seconds (None waits for it to end or die).
        """
        self._use()
        reader: FifoReader[T] = FifoReader(
            self._path,
            self._type,
            self._limit,
            ends_with_writers=ends_with_writers,
            deadline=deadline_of(timeout),
        )
        self._ends.add(reader)
        return reader

    def writer(self, timeout: float | None = None, *, patient: bool = False) -> FifoWriter[T]:
        """Opens the end to write to, as soon as somebody reads.

        `Timeout` when nobody did in `timeout` seconds (None waits, 0 looks).

        When the last reader goes, writing gives `ShutDown`, and works again when another comes. The messages
        of a `patient` writer wait for that.
        """
        self._use()
        writer: FifoWriter[T] = FifoWriter(
            self._path, self._type, self._limit, patient=patient, deadline=deadline_of(timeout)
        )
        self._ends.add(writer)
        return writer

    def _use(self) -> None:
        if self._closed:
            raise ClosedError("this handle is closed")
        self._check()

    def close(self) -> None:
        """Closes the ends that were opened through this handle. The FIFO stays."""
        self._closed = True
        for end in list(self._ends):
            end.close()

    def unlink(self) -> None:
        """Removes the FIFO from the file system; who has it open goes on with it.

        `FileNotFoundError` where it is gone.
        """
        self._check()
        Path(self._path).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        self._use()
        return _again, (type(self), self._path, self._type, self._limit)

    def __repr__(self) -> str:
        return f"<isthmus.Fifo {self._path!r}{' (closed)' if self._closed else ''}>"


def _again(cls: type[Fifo[Any]], path: str, type: Any, limit: int) -> Fifo[Any]:
    return cls.open(path, type=type, limit=limit)


def _make(path: str, mode: int) -> None:
    """Makes it under a private name, so that nobody sees it with another mode than the one asked for."""
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode={mode:#o}: permissions are 0 to 0o777")
    private = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.mkfifo(private, 0o600)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None
    try:
        Path(private).chmod(mode)
        os.link(private, path)
    except FileExistsError as error:
        raise FileExistsError(error.errno, error.strerror, path) from None
    finally:
        Path(private).unlink()
