"""Where the bytes of a `SharedMemory` are: in the namespace, or anonymous (`_posix_shm`: as POSIX has it).

Each kind of segment has `name`, `size()`, `map()`, `grow()`, `place()` (for pickling), `close()`, `unlink()`.
"""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NoReturn, Self

from . import _core
from ._errors import ClosedError, NoSpaceError, Unsupported

__all__ = [
    "SEALS",
    "AnonymousSegment",
    "Descriptor",
    "FileSegment",
    "Mode",
    "NamedSegment",
    "collapse",
    "huge_page",
]

Mode = Literal["open_or_create", "create", "open"]

_HUGE = Path("/sys/kernel/mm/hugepages")
_THP = Path("/sys/kernel/mm/transparent_hugepage")
_NOEXEC_SEAL = 8  # MFD_NOEXEC_SEAL, Linux 6.3; older kernels answer EINVAL

SEALS: Final = {
    "seal": fcntl.F_SEAL_SEAL,
    "shrink": fcntl.F_SEAL_SHRINK,
    "grow": fcntl.F_SEAL_GROW,
    "write": fcntl.F_SEAL_WRITE,
    "future_write": 0x10,
}


class Descriptor:
    """A descriptor of our own that remembers its file.

    Programs close descriptors they do not know; the number may then be another file's, which is left alone.
    And a thread may close the handle while another is about to make a system call: what is done without the
    GIL is done inside of `with descriptor.use() as fd:`, and the last one to leave closes.
    """

    __slots__ = ("_closed", "_fd", "_open", "_users", "identity")

    identity: tuple[int, int] | None
    """Device and inode."""

    def __init__(self, fd: int) -> None:
        self.identity = None
        self._fd = fd
        self._closed = False
        # Lists, because adding and taking out are one step each, whatever other threads do.
        self._open = [fd]
        self._users: list[None] = []
        found = os.fstat(fd)
        self.identity = (found.st_dev, found.st_ino)

    @property
    def fd(self) -> int:
        """The number; `ClosedError` once closed."""
        if self._closed:
            raise ClosedError("this handle is closed")
        return self._fd

    def use(self) -> "_Use":
        """Keeps it open inside of a block."""
        return _Use(self)

    def stat(self) -> os.stat_result:
        """The file's state; `OSError` (EBADF) where the descriptor was closed behind our back."""
        with self.use() as fd:
            found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != self.identity:
            raise OSError(errno.EBADF, "the descriptor was closed by somebody else")
        return found

    def close(self) -> None:
        """Closes it, for those who ask from now on. Closing twice does nothing."""
        self._closed = True
        if not self._users:
            self._end()

    def drop(self) -> None:
        """Closes it at once: in a forked child, which does not have the threads that use it."""
        self._closed = True
        self._users.clear()
        self._end()

    def _end(self) -> None:
        try:
            fd = self._open.pop()
        except (AttributeError, IndexError):
            return
        with suppress(OSError):
            found = os.fstat(fd)
            # None: Ctrl+C came before it was known.
            if self.identity in (None, (found.st_dev, found.st_ino)):
                os.close(fd)

    def __del__(self) -> None:
        self._end()


class _Use:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        descriptor = self._descriptor
        descriptor._users.append(None)
        if descriptor._closed:
            self.__exit__()
            raise ClosedError("this handle is closed")
        return descriptor._fd

    def __exit__(self, *_: object) -> None:
        descriptor = self._descriptor
        descriptor._users.pop()
        if descriptor._closed and not descriptor._users:
            descriptor._end()


class NamedSegment:
    """In the namespace, with the lifetime that objects have."""

    __slots__ = ("_core", "name")

    def __init__(
        self,
        name: str,
        mode: Mode,
        size: int | None,
        description: bytes,
        persistent: bool | None,
        namespace: str | os.PathLike[str] | None,
    ) -> None:
        self._core = _core.SharedMemory(name, mode, size, description, persistent, namespace)
        self.name = name

    def size(self) -> int:
        """Bytes; `IncompatibleError` where the file was cut."""
        return self._core.size()

    def description(self) -> bytes:
        """What was said of the content at its creation."""
        return self._core.description()

    def map(self, length: int, writable: bool) -> _core.Mapping:
        """The first `length` bytes, mapped."""
        return self._core.map(length, writable)

    def grow(self, size: int) -> None:
        """Makes it `size` bytes, if it is smaller."""
        self._core.grow(size)

    def place(self) -> tuple[str, str]:
        """Namespace and name."""
        namespace, name = self._core._place()
        return os.fspath(namespace), name

    def fileno(self) -> int:
        """There is none for others: content begins behind a header."""
        raise Unsupported("a descriptor to hand on: anonymous and posix-shm:// memory have it")

    def close(self) -> None:
        """Ends it; removes the name if nobody else uses it."""
        self._core.close()

    def unlink(self) -> None:
        """Removes the name; `FileNotFoundError` where it is gone, or another object's."""
        self._core.unlink()


class FileSegment:
    """A whole file in memory, behind a descriptor."""

    __slots__ = ("_label", "descriptor", "name")

    name: str | None

    def __init__(self, fd: int, name: str | None, label: str) -> None:
        self.descriptor = Descriptor(fd)
        self.name = name
        self._label = label

    def size(self) -> int:
        """Bytes."""
        return self.descriptor.stat().st_size

    def description(self) -> bytes:
        """Nothing: there is no place for it."""
        return b""

    def map(self, length: int, writable: bool) -> _core.Mapping:
        """The first `length` bytes, mapped; reserved, if they can be written to."""
        if writable and self.descriptor.stat().st_blocks * 512 < length:
            # Made long by ftruncate, which reserves nothing: now, instead of a SIGBUS later.
            self.reserve(0, length)
        with self.descriptor.use() as fd:
            return _core.Mapping(fd, 0, length, "write" if writable else "read")

    def grow(self, size: int) -> None:
        """Makes it `size` bytes, if it is smaller."""
        self.reserve(self.size(), size)

    def reserve(self, start: int, end: int) -> None:
        """Gives a range memory."""
        with self.descriptor.use() as fd:
            _core.reserve(fd, start, end, self._label)

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor.fd

    def close(self) -> None:
        """Closes the descriptor."""
        self.descriptor.close()


class AnonymousSegment(FileSegment):
    """On memfd: goes with its last user, and nobody can make it shorter under a view."""

    __slots__ = ("page",)

    page: int
    """Bytes of its huge pages; 0 for usual ones."""

    @classmethod
    def create(cls, size: int, page: int) -> Self:
        """New memory; `NoSpaceError` where there is not enough, or not enough huge pages."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if page:
            flags |= os.MFD_HUGETLB | (page.bit_length() - 1) << os.MFD_HUGE_SHIFT
            size = -(-size // page) * page
        label = f"isthmus-{os.urandom(8).hex()}"
        try:
            fd = os.memfd_create(label, flags | _NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.memfd_create(label, flags)
        self = cls(fd, None, "anonymous memory")
        self.page = page
        self.grow(size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return self

    @classmethod
    def of(cls, fd: int) -> Self:
        """Takes over a descriptor; `ValueError` where there is no memory behind it."""
        self = cls(fd, None, "anonymous memory")
        if not stat.S_ISREG(self.descriptor.stat().st_mode):
            raise ValueError(f"descriptor {fd} is that of a socket, a pipe or a device, and not of memory")
        self.page = 0
        with suppress(OSError):
            block = os.fstatvfs(fd).f_bsize
            self.page = block if block > os.sysconf("SC_PAGESIZE") and _is_huge(block) else 0
        return self

    @classmethod
    def adopt(cls, pid: int, fd: int, identity: str, readonly: bool) -> Self:
        """Opens what process `pid` has open as `fd`; `FileNotFoundError` where that is gone."""
        gone = FileNotFoundError(
            errno.ENOENT,
            f"the anonymous memory {fd} of process {pid} is gone (its sender must live until it is received)",
        )
        try:
            # Looks before it opens: a FIFO or a device behind a reused number must not be touched.
            looked = Descriptor(os.open(f"/proc/{pid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError):
            raise gone from None
        except PermissionError:
            raise PermissionError(
                f"process {pid} does not let this one open its descriptors (another user, or not dumpable); "
                "use named memory"
            ) from None
        if _identity(looked.fd) != identity or not stat.S_ISREG(looked.stat().st_mode):
            raise gone
        how = os.O_RDONLY if readonly else os.O_RDWR
        return cls.of(os.open(f"/proc/self/fd/{looked.fd}", how | os.O_CLOEXEC))

    def grow(self, size: int) -> None:
        """Makes it `size` bytes, if it is smaller; of huge pages always whole ones."""
        page = self.page
        try:
            super().grow(-(-size // page) * page if page else size)
        except NoSpaceError:
            if page:
                _no_huge(size - self.size(), page)
            raise
        except PermissionError:
            raise PermissionError(
                f"this memory is sealed against growing beyond {self.size()} bytes"
            ) from None

    def place(self) -> tuple[int, int, str]:
        """Process, descriptor, and what tells it from others."""
        with self.descriptor.use() as fd:
            return os.getpid(), fd, _identity(fd)

    def seals(self) -> int:
        """The kernel's bits; 0 for a file that cannot be sealed."""
        try:
            with self.descriptor.use() as fd:
                return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            return 0

    def add_seals(self, bits: int) -> None:
        """Adds seals; they are never taken away again."""
        try:
            with self.descriptor.use() as fd:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, bits)
        except PermissionError:
            raise PermissionError(
                "this memory is sealed against further seals, or was opened readonly"
            ) from None
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise BufferError(
                    "writable views of this memory exist, here or in another process; release them, or seal "
                    "'future_write'"
                ) from None
            raise

    def unlink(self) -> None:
        """Says that there is no name."""
        raise ValueError("anonymous memory has no name to remove")


def huge_page(asked: bool | int) -> int:
    """Bytes of the huge pages asked for, 0 for none; `ValueError` for a size the kernel does not have."""
    if asked is False:
        return 0
    known = sorted(int(entry.name[10:-2]) * 1024 for entry in _HUGE.glob("hugepages-*kB"))
    if asked is True:
        default = [line for line in Path("/proc/meminfo").read_text().splitlines() if "Hugepagesize" in line]
        if not default:
            raise Unsupported("huge pages: this kernel has none")
        return int(default[0].split()[1]) * 1024
    if asked not in known:
        raise ValueError(f"huge_pages is {asked}: it takes True, or bytes of a page this kernel has: {known}")
    return asked


def _is_huge(page: int) -> bool:
    return (_HUGE / f"hugepages-{page // 1024}kB").exists()


def _no_huge(needed: int, page: int) -> NoReturn:
    """Says what is missing."""
    folder = _HUGE / f"hugepages-{page // 1024}kB"
    total, free = (int((folder / which).read_text()) for which in ("nr_hugepages", "free_hugepages"))
    raise NoSpaceError(
        f"cannot reserve {-(-needed // page)} huge pages of {page // 1024} KiB: {free} of {total} are free; "
        f"raise {folder}/nr_hugepages (vm.nr_hugepages, hugepages= on the kernel's command line), or go "
        "without huge_pages="
    ) from None


def collapse(mapping: _core.Mapping) -> None:
    """Puts transparent huge pages under a mapping; an error that says why there are none."""
    page = int((_THP / "hpage_pmd_size").read_text()) if _THP.exists() else 0
    if page and len(mapping) < page:
        raise ValueError(f"huge_pages: {len(mapping)} bytes are less than one of {page}")
    try:
        mapping.collapse()
    except OSError as error:
        _no_transparent(error)


def _no_transparent(error: OSError) -> NoReturn:
    if error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EBUSY):
        raise NoSpaceError(
            f"no huge pages for this memory: free memory is in too small pieces ({error.strerror}); try "
            "again later, or take anonymous memory with pages of vm.nr_hugepages"
        ) from None
    enabled = _THP / "shmem_enabled"
    state = enabled.read_text().strip() if enabled.exists() else "missing"
    raise Unsupported(
        f"huge pages: the tmpfs of this memory has none ({enabled} is '{state}', and it is not mounted with "
        "huge=advise); anonymous memory has those of vm.nr_hugepages"
    ) from None


def _identity(fd: int) -> str:
    """What tells a file from any other: the random name that anonymous memory has in /proc, and its inode."""
    found = os.fstat(fd)
    return f"{Path(f'/proc/self/fd/{fd}').readlink()} {found.st_dev}:{found.st_ino}"
