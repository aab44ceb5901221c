"""What the classes of synchronization share: how they are opened, handed to other processes, and shown."""

import os
from typing import Any, Literal, Self

from . import _core
from ._errors import ClosedError

__all__ = ["Named", "OnHandle", "Opening", "remade", "where"]

Opening = Literal["open_or_create", "create", "open"]


def where(handle: _core.Sync) -> tuple[str, str | None, tuple[int, int, int] | None]:
    """How another process gets there: namespace, name, and without one a place in this process.

    As for queues: by name, or through this process, which has to live until then.
    """
    if handle.closed:
        raise ClosedError("this handle is closed: it cannot be pickled")
    namespace, name, fd, nonce = handle._place()
    return os.fspath(namespace), name, None if name is not None else (os.getpid(), fd, nonce)


def remade(cls: Any, *arguments: Any) -> Any:
    """What was pickled, opened again by its class."""
    return cls._made(*arguments)


def _shown(handle: Any) -> str:
    what = "anonymous" if handle.name is None else repr(handle.name)
    return f"<isthmus.{type(handle).__name__} {what}{' (closed)' if handle.closed else ''}>"


class OnHandle:
    """What is made of a handle, and is none itself."""

    __slots__ = ()

    def _handle(self) -> _core.Sync:
        raise NotImplementedError

    def close(self) -> None:
        """Ends this handle; what is held stays held. Closing twice does nothing."""
        self._handle().close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it."""
        self._handle().unlink()

    @property
    def name(self) -> str | None:
        """The name, or None where it is anonymous."""
        return self._handle().name

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._handle().closed

    def __repr__(self) -> str:
        return _shown(self)


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
        return _shown(self)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (type(self), *where(self), self._detects())


def _reopen(
    cls: type[Any], namespace: str, name: str | None, place: tuple[int, int, int] | None, detects: bool
) -> Any:
    handle = remade(cls, name, "open", None, namespace, place)
    if detects:
        handle._detect()
    return handle
