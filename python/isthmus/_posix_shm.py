"""`posix-shm:///name`: memory that any program opens with `shm_open` (man 7 shm_overview)."""

import errno
import os
import stat
from pathlib import Path
from typing import Self

from ._errors import IncompatibleError
from ._segments import Descriptor, FileSegment, Mode, collapse

__all__ = ["PosixSegment", "is_posix", "posix_name"]

_SHM = "/dev/shm"  # noqa: S108 - where shm_open of every C library has them
_SCHEME = "posix-shm:"


def is_posix(name: str | None) -> bool:
    """Tells whether a name is of this kind; TypeError where it is no name."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{name!r} is no name, which comes first; without one it is size= or shape=")
    return name is not None and name.startswith(_SCHEME)


class PosixSegment(FileSegment):
    """What `shm_open` opens: a file in /dev/shm that stays until somebody removes it."""

    __slots__ = ()

    @classmethod
    def open(
        cls, name: str, mode: Mode, size: int | None, readonly: bool, permissions: int, *, huge: bool = False
    ) -> Self:
        """Opens or creates it; never through a symbolic link."""
        path = f"{_SHM}/{posix_name(name)}"
        while True:
            if mode != "create":
                try:
                    return cls._existing(path, name, size, readonly)
                except FileNotFoundError:
                    if mode == "open":
                        raise FileNotFoundError(errno.ENOENT, "no such POSIX shared memory", name) from None
            try:
                return cls._create(path, name, size or 0, permissions, huge)
            except FileExistsError:
                if mode == "create":
                    raise FileExistsError(errno.EEXIST, "this POSIX shared memory exists", name) from None

    @classmethod
    def _existing(cls, path: str, name: str, size: int | None, readonly: bool) -> Self:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(path, flags | (os.O_RDONLY if readonly else os.O_RDWR))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise IncompatibleError(f"{path} is a symlink, a directory or a socket") from None
            raise
        self = cls(fd, name, _SHM)
        found = self.descriptor.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IncompatibleError(f"{path} is no regular file, as POSIX shared memory is")
        if size is not None and size > found.st_size:
            raise IncompatibleError(
                f"{name} exists with size={found.st_size} and size={size} was asked for; open it without "
                "size and grow it"
            )
        if not readonly and found.st_blocks * 512 < found.st_size:
            # Made long by ftruncate, which reserves nothing: now, instead of a SIGBUS later.
            self.reserve(0, found.st_size)
        return self

    @classmethod
    def _create(cls, path: str, name: str, size: int, permissions: int, huge: bool) -> Self:
        # Complete before it has a name: nobody opens it while it is empty, or is left one without huge pages.
        self = cls(os.open(_SHM, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), name, _SHM)
        fd = self.descriptor.fd
        os.fchmod(fd, permissions)
        self.grow(size)
        if huge:
            collapse(self.map(size, True))
        directory = Descriptor(os.open(_SHM, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        # With a directory given Python follows the link in /proc to the file (AT_SYMLINK_FOLLOW).
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=directory.fd, follow_symlinks=True)
        return self

    def place(self) -> tuple[str]:
        """Its name."""
        assert self.name is not None
        return (self.name,)

    def unlink(self) -> None:
        """Removes the name; `FileNotFoundError` where it is gone, or leads to another file."""
        assert self.name is not None
        path = Path(_SHM, posix_name(self.name))
        gone = FileNotFoundError(errno.ENOENT, "this POSIX shared memory has no name any more", self.name)
        try:
            found = path.lstat()
            if (found.st_dev, found.st_ino) != self.descriptor.identity:
                raise gone
            path.unlink()
        except FileNotFoundError:
            raise gone from None


def posix_name(name: str) -> str:
    """The name of the file of `posix-shm:///name`; `ValueError` where it cannot be one."""
    text = name.removeprefix(f"{_SCHEME}///")
    if (
        text == name
        or not text
        or "/" in text
        or "\0" in text
        or text in (".", "..")
        or len(os.fsencode(text)) > 255
    ):
        raise ValueError(
            f"{name!r}: it takes posix-shm:///name, with a name of up to 255 bytes without a slash"
        )
    return text
