"""What the asynchronous classes of synchronization share: they wrap a handle, and wait for it as a task."""

from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from isthmus import _core
from isthmus._core import ASK
from isthmus._errors import ClosedError, OwnerDied, WouldBlock

from ._driver import check, settle, until
from ._tasks import context

__all__ = ["Entered", "Permits", "Recovery", "Wrapper", "acquire", "wait"]

S = TypeVar("S")


async def acquire(sync: _core.Sync, what: str, timeout: float | None) -> bool:
    """Takes what a handle is for, as the current task; False when time was up."""
    check(timeout)
    me = context()
    try:
        return sync._acquire_as(me, ASK)
    except WouldBlock:
        pass
    return await settle(
        lambda t: sync._acquire_as(me, t), lambda _on: _core.Wait.sync(sync, what, me), 0, timeout
    )


async def wait(sync: _core.Sync, what: str, number: int, timeout: float | None) -> bool:
    """Waits for what is taken from nobody; False when time was up."""
    check(timeout)
    came = await until(_core.Wait.sync(sync, what, context(), number), timeout)
    # The wait ends when the handle is closed, too, and no other call follows that would say so.
    if sync.closed:
        raise ClosedError("this handle is closed")
    return came


class Wrapper(Generic[S]):
    """Wraps a handle that sync code goes on using, or opens one with the arguments of its class."""

    __slots__ = ("__weakref__", "_sync")

    _class: Any
    _sync: S

    def __init__(self, handle: "S | str | None" = None, *arguments: Any, **attributes: Any) -> None:
        if isinstance(handle, self._class):
            if arguments or attributes:
                raise TypeError("arguments are for opening an object, not for wrapping one")
            self._sync = handle
        else:
            self._sync = self._class(handle, *arguments, **attributes)

    @classmethod
    def create(cls, name: str, *arguments: Any, **attributes: Any) -> Self:
        """Creates it; `FileExistsError` where the name is taken."""
        return cls(cls._class.create(name, *arguments, **attributes))

    @classmethod
    def open(cls, name: str, **attributes: Any) -> Self:
        """Opens what exists; `FileNotFoundError` where there is none of this name."""
        return cls(cls._class.open(name, **attributes))

    @property
    def sync(self) -> S:
        """The handle for code that is not asynchronous."""
        return self._sync

    def close(self) -> None:
        """Ends the handle, for those who share it too; what is held stays held."""
        self._sync.close()  # type: ignore[attr-defined]

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it."""
        self._sync.unlink()  # type: ignore[attr-defined]

    @property
    def name(self) -> str | None:
        """The name, or None where it has none."""
        name: str | None = self._sync.name  # type: ignore[attr-defined]
        return name

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        closed: bool = self._sync.closed  # type: ignore[attr-defined]
        return closed

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.aio.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"


class Entered:
    """`async with` takes it and gives it back, by the `acquire` and `release` of its class."""

    __slots__ = ()

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes it; False when `timeout` seconds went by (None waits, 0 tries)."""
        raise NotImplementedError

    def release(self) -> None:
        """Gives it back."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Permits(Entered):
    """A lock of a handle, for tasks: `async with`, `acquire`, `release`."""

    __slots__ = ("_lock", "_what")

    def __init__(self, lock: _core.Sync, what: str) -> None:
        self._lock = lock
        self._what = what

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes it; False when `timeout` seconds went by (None waits, 0 tries)."""
        return await acquire(self._lock, self._what, timeout)

    def release(self) -> None:
        """Gives it back. `NotOwnerError` where this task does not hold it."""
        self._lock._release(1, context())


class Recovery:
    """Holds a read-write lock for repair between entering and leaving."""

    __slots__ = ("_lock", "_me", "_timeout")

    def __init__(self, lock: _core.Sync, timeout: float | None) -> None:
        check(timeout)
        self._lock = lock
        self._timeout = timeout

    async def __aenter__(self) -> OwnerDied | None:
        me = self._me = context()
        lock = self._lock
        try:
            return lock._recover(ASK, context=me)
        except WouldBlock:
            pass
        return await settle(
            lambda t: lock._recover(t, context=me),
            lambda _on: _core.Wait.sync(lock, "write", me),
            0,
            self._timeout,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock._recovered(kind is None, context=self._me)
