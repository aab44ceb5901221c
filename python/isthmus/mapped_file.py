"""`MappedFile`: a file as memory, shared with whoever maps or reads it."""

import errno
import mmap
import os
import stat
import weakref
from operator import index
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from . import _core
from ._errors import ClosedError, CorruptError, IncompatibleError, Unsupported
from ._range_lock import RangeLock
from ._segments import Descriptor
from ._viewing import Viewable

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MappedFile", "RangeLock"]

Access = Literal["read", "write", "copy"]

ADVICE = {
    "normal": mmap.MADV_NORMAL,
    "random": mmap.MADV_RANDOM,
    "sequential": mmap.MADV_SEQUENTIAL,
    "willneed": mmap.MADV_WILLNEED,
    "dontneed": mmap.MADV_DONTNEED,
    "hugepage": mmap.MADV_HUGEPAGE,
    "nohugepage": mmap.MADV_NOHUGEPAGE,
    "dontfork": mmap.MADV_DONTFORK,
    "dofork": mmap.MADV_DOFORK,
    "dontdump": mmap.MADV_DONTDUMP,
    "dodump": mmap.MADV_DODUMP,
    "cold": 20,
    "pageout": 21,
    "populate_read": 22,
    "populate_write": 23,
}
"""Names that `advise()` takes, for the kernel's numbers; the last four came with Linux 5.4 and 5.14."""


class MappedFile(Viewable):
    """A file as memory: `view()` and `array()` show it in place, `read()` and `write()` copy.

    `MappedFile(path)` opens the file, `MappedFile(path, size)` opens or creates it, with room on the disk for
    that many bytes (`size` is what an existing one has at least, and more is an `IncompatibleError`).
    `MappedFile.create` insists on new, `MappedFile.open` on existing.

    `access` says what views may do: `"write"` changes the file, for all who map or read it; `"read"` changes
    nothing; `"copy"` changes only what this handle's views show (copy-on-write), never the file.

    What is written is in the file at once, for every reader, and stays there when this process is killed. On
    the disk it is after `flush()`, or some time later; a power failure in between loses some pages of it.

    **A file that becomes shorter** takes the ground from under views: touching what is gone kills the process
    (SIGBUS; the kernel has no other way). `read()` and `write()` raise `CorruptError` instead: use them for
    files that others may cut. A view keeps its memory: closing the handle does no harm to it. See mmap(2).
    """

    __slots__ = ("__weakref__", "_access", "_descriptor", "_locks", "_mapping", "_new_in", "_path", "_seen")

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | None = None,
        *,
        access: Access = "write",
        permissions: int = 0o666,
    ) -> None:
        self._begin(path, "open" if size is None else "open_or_create", size, access, permissions)

    @classmethod
    def create(cls, path: str | os.PathLike[str], size: int, *, permissions: int = 0o666) -> Self:
        """Creates the file; `FileExistsError` where it exists. `permissions` are cut by the umask."""
        self = cls.__new__(cls)
        self._begin(path, "create", size, "write", permissions)
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, access: Access = "write") -> Self:
        """Opens a file that exists; `FileNotFoundError` where there is none."""
        self = cls.__new__(cls)
        self._begin(path, "open", None, access, 0)
        return self

    def _begin(
        self,
        path: str | os.PathLike[str],
        mode: Literal["open_or_create", "create", "open"],
        size: int | None,
        access: Access,
        permissions: int,
    ) -> None:
        self._descriptor: Descriptor | None = None
        if access not in ("read", "write", "copy"):
            raise ValueError(f"access is {access!r}: it takes 'read', 'write' or 'copy'")
        if size is not None and index(size) < 0:
            raise ValueError(f"size is {size}: it takes bytes, 0 or more")
        if access != "write" and mode == "open_or_create":
            mode = "open"
        self._path = os.fspath(Path(path).absolute())
        self._access: Access = access
        self._mapping: _core.Mapping | None = None
        self._new_in: str | None = None
        self._locks: weakref.WeakSet[RangeLock] = weakref.WeakSet()
        self._descriptor = self._opened(mode, size, permissions)
        self._seen = self.size

    def _opened(self, mode: str, size: int | None, permissions: int) -> Descriptor:
        # Non-blocking: opening a FIFO by mistake must not wait for its other end.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        flags |= os.O_RDWR if self._access == "write" else os.O_RDONLY
        while True:
            if mode != "create":
                try:
                    return self._existing(Descriptor(os.open(self._path, flags)), size)
                except FileNotFoundError:
                    if mode == "open":
                        raise
            try:
                return self._created(flags, size or 0, permissions)
            except FileExistsError:
                if mode == "create":
                    raise

    def _existing(self, file: Descriptor, size: int | None) -> Descriptor:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IncompatibleError(f"{self._path} is no regular file")
        if size is not None and size > found.st_size:
            raise IncompatibleError(
                f"{self._path} exists with size={found.st_size} and size={size} was asked for; open it "
                "without size and grow it"
            )
        return file

    def _created(self, flags: int, size: int, permissions: int) -> Descriptor:
        # Complete before it has a name, so that nobody opens it while it is shorter.
        folder = os.fspath(Path(self._path).parent)
        try:
            file = Descriptor(os.open(folder, os.O_TMPFILE | flags, permissions))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            file = Descriptor(os.open(self._path, flags | os.O_CREAT | os.O_EXCL, permissions))
            try:
                self._reserve(file, 0, size)
            except BaseException:
                Path(self._path).unlink()
                raise
        else:
            self._reserve(file, 0, size)
            here = Descriptor(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            # With a directory given Python follows the link in /proc to the file (AT_SYMLINK_FOLLOW).
            try:
                os.link(f"/proc/self/fd/{file.fd}", self._path, src_dir_fd=here.fd, follow_symlinks=True)
            except FileExistsError:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path) from None
        self._new_in = folder
        return file

    def _reserve(self, file: Descriptor, start: int, end: int) -> None:
        with file.use() as fd:
            try:
                _core.reserve(fd, start, end, self._path)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or start >= end:
                    raise
                os.posix_fallocate(fd, start, end - start)  # writes zeros where the file system cannot

    def _open(self) -> Descriptor:
        if self._descriptor is None:
            raise ClosedError("this handle is closed")
        return self._descriptor

    def _now(self) -> _core.Mapping:
        file, mapping = self._open(), self._mapping
        # A private copy is made once: another mapping would not have what was written to the first.
        if mapping is None or (self._access != "copy" and len(mapping) != file.stat().st_size):
            with file.use() as fd:
                self._mapping = mapping = _core.Mapping(fd, 0, file.stat().st_size, self._access)
        return mapping

    @property
    def path(self) -> str:
        """Where it was opened, absolute."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes the file has now."""
        return self._open().stat().st_size

    @property
    def access(self) -> Access:
        """`"read"`, `"write"` or `"copy"`."""
        return self._access

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._descriptor is None

    def grow(self, size: int) -> int:
        """Makes the file `size` bytes long, if it is shorter, and returns how long it is then.

        What is added is zero, and its room on the disk is reserved: a full disk is a `NoSpaceError` now, not
        a SIGBUS later. Views made before stay valid and as they are. `PermissionError` with other access than
        `"write"`.
        """
        file = self._writing("grow")
        self._reserve(file, file.stat().st_size, size)
        self._seen = max(self._seen, file.stat().st_size)
        return file.stat().st_size

    def reserve(self, offset: int = 0, length: int | None = None) -> None:
        """Gives a range of a sparse file room on the disk: a store into a view there cannot be a SIGBUS then.

        Bytes stay as they are. A new file, and what has grown, is reserved already.
        """
        file = self._writing("reserve")
        self._reserve(file, *self._range(offset, length))

    def _writing(self, verb: str) -> Descriptor:
        file = self._open()
        if self._access != "write":
            raise PermissionError(errno.EACCES, f"access is {self._access!r}: it cannot {verb}", self._path)
        return file

    def _range(self, offset: int, length: int | None) -> tuple[int, int]:
        size = self.size
        self._seen = max(self._seen, size)
        end = max(size, offset) if length is None else offset + length
        if not 0 <= offset <= end:
            raise ValueError(f"offset {offset}, length {length}: it takes 0 or more")
        if end > self._seen:
            raise ValueError(f"bytes {offset} to {end} of {self._path}: it has {size}")
        if end > size:
            raise CorruptError(
                f"bytes {offset} to {end} of {self._path}: it had {self._seen} and was cut to {size}"
            )
        return offset, end

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Copies bytes out of the file, to its end unless `length` says how many (pread(2)).

        `ValueError` where the file does not have them, `CorruptError` where it had them. With access `"copy"`
        it is the file that is read, not what views have changed.
        """
        start, end = self._range(offset, length)
        parts = []
        with self._open().use() as fd:
            while start < end:
                part = os.pread(fd, min(end - start, 1 << 30), start)
                if not part:
                    raise CorruptError(
                        f"bytes {offset} to {end} of {self._path}: it was cut while it was read"
                    )
                parts.append(part)
                start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: "Buffer") -> None:
        """Copies bytes into the file (pwrite(2)); it does not become longer by that: see `grow()`.

        `ValueError` beyond its end, `CorruptError` where it was cut, `OSError` where a hole is written to and
        the disk is full. A reader may see a part of it: take `lock()` where that matters.
        """
        file = self._writing("write")
        rest = memoryview(data).cast("B")
        start, _ = self._range(offset, len(rest))
        with file.use() as fd:
            while rest:
                done = os.pwrite(fd, rest, start)
                rest, start = rest[done:], start + done

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Waits until what was written to the file, by anybody, through views or not, is on its disk.

        The whole file by fdatasync(2), with its length and, where this handle created it, its name; a range
        by msync(2), in whole pages. What was flushed survives a power failure as far as the disk says the
        truth. `OSError` (EIO) means that it is not there, and that flushing again does not bring it.
        `Unsupported` with access `"copy"`: those changes are never in the file.
        """
        file = self._open()
        if self._access == "copy":
            raise Unsupported("flush: changes of a private copy are never written to the file")
        if offset == 0 and length is None:
            with file.use() as fd:
                os.fdatasync(fd)
        else:
            start, end = self._range(offset, length)
            self._now().flush(start, end - start)
        if self._new_in is not None:
            folder = Descriptor(os.open(self._new_in, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.fsync(folder.fd)
            self._new_in = None

    def advise(self, advice: str, offset: int = 0, length: int | None = None) -> None:
        """Tells the kernel how a range will be used (madvise(2)), in whole pages.

        `"normal"`, `"random"`, `"sequential"`: how much to read ahead. `"willneed"`: read it now, in the
        background; `"populate_read"`, `"populate_write"`: now, and wait. `"dontneed"`, `"cold"`,
        `"pageout"`: give its memory back; the file keeps what was written, a private copy loses it with
        `"dontneed"`. `"hugepage"`, `"dontfork"`, `"dontdump"` and their opposites `"nohugepage"`, `"dofork"`,
        `"dodump"`: what the kernel does with the views' memory.

        It holds for the memory that views have now; after growth, say it again. `Unsupported` where this
        kernel or file system does not have it.
        """
        if advice not in ADVICE:
            raise ValueError(f"advice is {advice!r}: it takes {', '.join(ADVICE)}")
        mapping = self._now()
        try:
            mapping.advise(ADVICE[advice], offset, length)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Unsupported(f"advice {advice!r}: this kernel or this file does not have it") from None
            raise

    def lock(self, offset: int = 0, length: int | None = None, *, shared: bool = False) -> RangeLock:
        """A lock on a range, which may lie beyond the end; without a `length`, to the end wherever that is.

        `with file.lock(0, 4096):` waits for it; `lock.acquire(timeout)` says False when it took too long.
        """
        if offset < 0 or (length is not None and length <= 0):
            raise ValueError(
                f"offset {offset}, length {length}: a lock begins at 0 or more and has 1 or more"
            )
        lock = RangeLock(self._open(), offset, length or 0, shared)
        self._locks.add(lock)
        return lock

    def fileno(self) -> int:
        """The descriptor; it is closed with this handle."""
        return self._open().fd

    def close(self) -> None:
        """Ends this handle and its locks. Views that were made keep their memory; nothing is flushed.

        Closing twice does nothing.
        """
        file, self._descriptor = self._descriptor, None
        if file is not None:
            self._mapping = None
            for lock in list(self._locks):
                lock._close()
            file.close()

    def unlink(self) -> None:
        """Removes the file's name; those who have it open go on using it.

        `FileNotFoundError` where it is gone, or leads to another file.
        """
        file = self._open()
        found = os.lstat(self._path)
        if (found.st_dev, found.st_ino) != file.identity:
            raise FileNotFoundError(errno.ENOENT, "this path leads to another file now", self._path)
        Path(self._path).unlink()

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
        state = "closed" if self.closed else f"{self.size:,} bytes, {self._access}"
        return f"<isthmus.{type(self).__name__} {self._path!r} ({state})>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By its path, where the same file has to be.
        return _restore, (type(self), self._path, self._access, self._open().identity)


def _restore(cls: type[MappedFile], path: str, access: Access, identity: tuple[int, int]) -> MappedFile:
    self = cls.open(path, access=access)
    if self._open().identity != identity:
        self.close()
        raise FileNotFoundError(errno.ENOENT, "this path leads to another file now", path)
    return self
