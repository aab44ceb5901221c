"""What the classes of synchronization share: how they are opened, handed to other processes, and shown."""

import os
from typing import Any, Literal, Self

from . import _core
from ._errors import ClosedError

__all__ = ["Named"]

Opening = Literal["open_or_create", "create", "open"]


class Named(_core.Sync):
    """An object of one kind, by name or anonymous."""

    __slots__ = ()

    _kind = ""
    _default = 0

    @classmethod
    def _made(
        cls,
        name: str | None,
        mode: Opening,
        limit: int | None,
        namespace: str | os.PathLike[str] | None,
        adopt: tuple[int, int, int] | None = None,
    ) -> Self:
        return _core.Sync.__new__(cls, cls._kind, name, mode, limit, cls._default, namespace, adopt)

    @classmethod
    def open(cls, name: str, *, namespace: str | os.PathLike[str] | None = None) -> Self:
        """Opens what exists; `FileNotFoundError` where there is none of this name."""
        return cls._made(name, "open", None, namespace)

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # As for queues: by name, or through this process, which has to live until then.
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        namespace, name, fd, nonce = self._place()
        place = None if name is not None else (os.getpid(), fd, nonce)
        return _reopen, (type(self), os.fspath(namespace), name, place, self._detects())


def _reopen(
    cls: type[Any], namespace: str, name: str | None, place: tuple[int, int, int] | None, detects: bool
) -> Any:
    handle = cls._made(name, "open", None, namespace, place)
    if detects:
        handle._detect()
    return handle
