"""`SharedMemory`: bytes that processes share, by name, without one, or with programs that know only POSIX."""

import errno
import fcntl
import os
from operator import index
from types import TracebackType
from typing import Any, Self

from . import _core
from ._errors import ClosedError, Unsupported
from ._posix_shm import PosixSegment, is_posix, posix_name
from ._segments import SEALS, AnonymousSegment, Mode, NamedSegment, collapse, huge_page
from ._viewing import Viewable

__all__ = ["SharedMemory", "begin", "described_by", "now", "restore", "way"]


class SharedMemory(Viewable):
    """Bytes that processes share; `view()` and `array()` show them in place.

    - `SharedMemory(name, size)`, or `"shm://name"`: an object of Isthmus. It lives as long as somebody has it
      open (or until `unlink()`, with `persistent`), is listed by `isthmus ls`, and goes when its users were
      killed.
    - `SharedMemory("posix-shm:///name", size)`: a file in /dev/shm that any C program opens with
      `shm_open("/name", …)`. It stays until `unlink()`, whoever is left.
    - `SharedMemory(size=n)`: anonymous, on memfd. It reaches other processes by fork and by pickling
      (spawn, forkserver, queues), and goes with the last of them. It can be sealed.

    The first two open what exists, or create it: `size` (bytes) is then what it has at least, and more is
    an `IncompatibleError`. `SharedMemory.create` insists on new, `SharedMemory.open` on existing. All memory
    is zero at first and reserved at once: too little of it is a `NoSpaceError` that names the limit, not a
    SIGBUS later.

    - `readonly` opens what exists, and gives views that cannot be written to.
    - `huge_pages`: True, or the size of a page in bytes. Anonymous memory takes them from the pool of the
      machine (`vm.nr_hugepages`), named memory has transparent ones. Where there are none: `NoSpaceError` or
      `Unsupported`, and not small ones without a word.
    - `permissions` of a new `posix-shm:///`: the bits of its file, whatever the umask (0o600).
    - `namespace` is the directory of a bare name; without it ISTHMUS_NAMESPACE counts, and without that the
      user's own.

    A view keeps its memory: closing the handle, unlinking and growing do no harm to it. Nothing orders what
    several processes write; take a `Mutex` for that, or a `Queue`. A process that is killed leaves what it
    wrote as it is. See memfd_create(2), shm_overview(7).
    """

    __slots__ = ("__weakref__", "_huge", "_mapping", "_readonly", "_segment")

    _segment: NamedSegment | PosixSegment | AnonymousSegment | None

    def __init__(
        self,
        name: str | None = None,
        size: int | None = None,
        *,
        readonly: bool = False,
        persistent: bool | None = None,
        huge_pages: bool | int = False,
        permissions: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        mode: Mode = "open" if readonly else "open_or_create"
        if readonly and name is None:
            raise ValueError("readonly opens what exists, and anonymous memory is new")
        self._begin(name, mode, size, b"", readonly, persistent, huge_pages, permissions, namespace)

    @classmethod
    def create(
        cls,
        name: str,
        size: int,
        *,
        persistent: bool | None = None,
        huge_pages: bool | int = False,
        permissions: int | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates it; `FileExistsError` where the name is taken."""
        self = cls.__new__(cls)
        self._begin(name, "create", size, b"", False, persistent, huge_pages, permissions, namespace)
        return self

    @classmethod
    def open(
        cls,
        name: str,
        *,
        readonly: bool = False,
        huge_pages: bool = False,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens what exists; `FileNotFoundError` where there is nothing."""
        self = cls.__new__(cls)
        self._begin(name, "open", None, b"", readonly, None, huge_pages, None, namespace)
        return self

    @classmethod
    def from_fd(cls, fd: int, *, readonly: bool = False) -> Self:
        """Memory behind a descriptor that came from another program (over a socket, by inheritance).

        The descriptor stays the caller's; this handle has one of its own.
        """
        self = cls.__new__(cls)
        only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        self._take(AnonymousSegment.of(os.dup(fd)), readonly or only)
        return self

    def _begin(
        self,
        name: str | None,
        mode: Mode,
        size: int | None,
        description: bytes,
        readonly: bool,
        persistent: bool | None,
        huge_pages: bool | int,
        permissions: int | None,
        namespace: str | os.PathLike[str] | None,
    ) -> None:
        self._segment = None
        if size is not None and index(size) < 0:
            raise ValueError(f"size is {size}: it takes bytes, 0 or more")
        posix = is_posix(name)
        if permissions is not None and not posix:
            raise ValueError("permissions are for posix-shm:///; a bare name has those of its namespace")
        if namespace is not None and (posix or name is None):
            raise ValueError("a namespace has bare names; posix-shm:/// and anonymous memory are not in it")
        if persistent is not None and not isinstance(persistent, bool):
            raise TypeError(f"persistent is {persistent!r}: it takes True, False or None")
        if name is None:
            if persistent:
                raise ValueError("anonymous memory has no name to persist under")
            if size is None:
                raise TypeError("anonymous memory takes a size")
            self._take(AnonymousSegment.create(size, huge_page(huge_pages)), readonly)
            return
        if huge_pages not in (False, True):
            raise Unsupported("huge_pages of a given size: anonymous memory has them; here it takes True")
        if posix:
            posix_name(name)
            if persistent is False:
                raise Unsupported("POSIX shared memory stays until unlink(); a bare name goes with its users")
            bits = 0o600 if permissions is None else permissions
            self._take(PosixSegment.open(name, mode, size, readonly, bits, huge=bool(huge_pages)), readonly)
        else:
            name = name.removeprefix("shm://")
            self._take(NamedSegment(name, mode, size, description, persistent, namespace), readonly)
        if huge_pages:
            self._huge = True
            try:
                self._now()
            except BaseException:
                self.close()
                raise

    def _take(self, segment: NamedSegment | PosixSegment | AnonymousSegment, readonly: bool) -> None:
        self._segment = segment
        self._readonly = readonly
        self._huge = False
        self._mapping: _core.Mapping | None = None

    def _open(self) -> NamedSegment | PosixSegment | AnonymousSegment:
        segment = self._segment
        if segment is None:
            raise ClosedError("this handle is closed")
        return segment

    def _now(self) -> _core.Mapping:
        segment = self._open()
        size, mapping = segment.size(), self._mapping
        if mapping is None or len(mapping) != size:
            mapping = segment.map(size, not self.readonly)
            if self._huge:
                collapse(mapping)
            self._mapping = mapping
        return mapping

    @property
    def size(self) -> int:
        """Bytes there are now; others may make it grow."""
        return self._open().size()

    @property
    def name(self) -> str | None:
        """The name as it was given, or None for anonymous memory or after `close()`."""
        return None if self._segment is None else self._segment.name

    @property
    def readonly(self) -> bool:
        """True where views cannot be written to: opened so, or sealed."""
        segment = self._open()
        if isinstance(segment, AnonymousSegment) and not self._readonly:
            return bool(segment.seals() & (SEALS["write"] | SEALS["future_write"]))
        return self._readonly

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._segment is None

    @property
    def seals(self) -> frozenset[str]:
        """What is sealed, by the names that `seal()` takes; nothing but for anonymous memory."""
        segment = self._open()
        bits = segment.seals() if isinstance(segment, AnonymousSegment) else 0
        return frozenset(name for name, bit in SEALS.items() if bits & bit)

    def grow(self, size: int) -> int:
        """Makes it `size` bytes, if it is smaller, and returns how many it has then.

        What is added is zero and reserved. Views made before stay valid and as they are; those made later,
        by any process, see all of it. Of several that grow at once the largest stays. `NoSpaceError` changes
        nothing that is in use. `PermissionError` where it is readonly or sealed.
        """
        segment = self._open()
        if self._readonly:
            raise PermissionError(errno.EACCES, "this handle is readonly: it cannot grow")
        if size > segment.size():
            segment.grow(size)
        return segment.size()

    def seal(self, *names: str) -> None:
        """Forbids something for good, to everybody who has this anonymous memory, now and later.

        `"grow"`: longer; `"shrink"`: shorter (sealed from the beginning); `"write"`: any change, for which no
        writable view of it may be left (`BufferError`); `"future_write"`: changes, but for those through
        views there are; `"seal"`: further seals. `Unsupported` for memory with a name. See fcntl(2).
        """
        segment = self._open()
        if not isinstance(segment, AnonymousSegment):
            raise Unsupported("seals: anonymous memory has them")
        unknown = [name for name in names if name not in SEALS]
        if unknown or not names:
            raise ValueError(f"seal{names}: it takes {', '.join(SEALS)}")
        if self._readonly:
            raise PermissionError(errno.EACCES, "this handle is readonly: it cannot seal")
        if not self.readonly:
            self._mapping = None  # ours would stand in the way; views keep theirs
        segment.add_seals(sum(SEALS[name] for name in set(names)))

    def fileno(self) -> int:
        """The descriptor of anonymous and `posix-shm:///` memory, for programs that map it themselves.

        It is closed with this handle. `Unsupported` for a bare name: its content begins behind a header.
        """
        return self._open().fileno()

    def close(self) -> None:
        """Ends this handle. Views that were made keep their memory. Closing twice does nothing."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._mapping = None
            segment.close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone."""
        self._open().unlink()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._segment is None:
            return f"<isthmus.{type(self).__name__} (closed)>"
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}, {self.size:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By name, or through this process, which has to live until then.
        return restore, (type(self), *way(self))


# What `SharedArray` is made of.
begin = SharedMemory._begin
now = SharedMemory._now


def described_by(memory: SharedMemory) -> bytes:
    """What is stored about the content."""
    return memory._open().description()


def way(memory: SharedMemory) -> tuple[Any, ...]:
    """How another process gets there."""
    if memory._segment is None:
        raise ClosedError("this handle is closed: it cannot be pickled")
    return memory._segment.place(), memory._readonly, memory._huge


def restore(cls: type[SharedMemory], place: tuple[Any, ...], readonly: bool, huge: bool) -> SharedMemory:
    """The memory that `way` leads to, for unpickling."""
    self = cls.__new__(cls)
    self._segment = None
    match place:
        case (int(pid), int(fd), str(identity)):
            self._take(AnonymousSegment.adopt(pid, fd, identity, readonly), readonly)
        case (str(namespace), str(name)):
            self._take(NamedSegment(name, "open", None, b"", None, namespace), readonly)
        case (str(name),):
            self._take(PosixSegment.open(name, "open", None, readonly, 0), readonly)
        case _:
            raise ValueError(f"no place of shared memory: {place!r}")
    self._huge = huge
    return self
