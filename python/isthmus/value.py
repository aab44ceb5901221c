"""`Value`: an integer or a float that processes share. The native class does the work."""

import os
from typing import Self, SupportsFloat, SupportsIndex

from . import _core
from ._errors import ClosedError

__all__ = ["Value"]


class Value(_core.Value):
    """An integer or a float that processes share, changed in one step by whoever wants to.

    `Value(name)` opens the value of that name in the namespace, or creates it with `initial`, which counts
    only then; `Value.create` insists on a new one, `Value.open` on one that exists. `Value()` is anonymous:
    it reaches other processes by fork and by pickling.

    `type` is `int` (64 bits with a sign; beyond them is an `OverflowError`) or `float`. Without it a new
    value has the type of `initial`, and an existing one is accepted whatever its type; a type that is given
    and differs is an `IncompatibleError`. `persistent` keeps the value when the last process closes it,
    until `unlink()`. `namespace` is the directory; without it ISTHMUS_NAMESPACE counts, and without that the
    user's own.

    Each call is one atomic instruction: nobody waits for anybody, and a process killed in it has changed the
    number or has not. `value.value += 1` is two calls, between which others may come; `add(1)` is one.
    """

    __slots__ = ()

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        initial: SupportsFloat | SupportsIndex = 0,
        *,
        type: type[int | float] | None = None,
        persistent: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        return super().__new__(cls, name, "open_or_create", initial, type, persistent, namespace)

    @classmethod
    def create(
        cls,
        name: str,
        initial: SupportsFloat | SupportsIndex = 0,
        *,
        type: type[int | float] | None = None,
        persistent: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the value; `FileExistsError` where the name is taken."""
        return super().__new__(cls, name, "create", initial, type, persistent, namespace)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        type: type[int | float] | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a value that exists; `FileNotFoundError` where there is none."""
        return super().__new__(cls, name, "open", 0, type, None, namespace)

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}{' (closed)' if self.closed else f' = {self.get()!r}'}>"

    def __reduce__(self) -> tuple[object, ...]:
        # As for queues: by name, or through this process.
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        namespace, name, fd, nonce = self._place()
        if name is None:
            return _adopt, (type(self), os.fspath(namespace), os.getpid(), fd, nonce)
        return _reopen, (type(self), os.fspath(namespace), name)


def _reopen(cls: type[Value], namespace: str, name: str) -> Value:
    return cls.open(name, namespace=namespace)


def _adopt(cls: type[Value], namespace: str, pid: int, fd: int, nonce: int) -> Value:
    return _core.Value.__new__(cls, None, "open", 0, None, None, namespace, (pid, fd, nonce))
