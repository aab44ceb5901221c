"""Sockets that listen: bound, with the leftovers of the dead out of the way."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from ._address import Address, Place
from ._failures import annotated

__all__ = ["bind", "bind_unix", "unbind_unix"]


def bind(
    address: Address, backlog: int, *, mode: int, reuse_port: bool
) -> tuple[list[socket.socket], tuple[int, int] | None]:
    """Sockets that listen at each place of `address`, and what identifies the file of a Unix socket."""
    if address.scheme == "unix":
        sock, identity = bind_unix(address, socket.SOCK_STREAM, mode, backlog)
        return [sock], identity
    places = address.places(passive=True)
    for attempt in range(8):
        try:
            return _bind_all(address, places, backlog, reuse_port), None
        except OSError as problem:
            # With port 0 the first place finds a free one, which another place may have in use.
            if address.port or problem.errno != errno.EADDRINUSE or attempt == 7:
                raise _unbound(problem, address) from problem
    raise AssertionError


def _unbound(problem: OSError, address: Address) -> OSError:
    if problem.errno == errno.EADDRINUSE:
        return OSError(errno.EADDRINUSE, f"{address}: somebody listens there already")
    return annotated(problem, address)


def _bind_all(address: Address, places: list[Place], backlog: int, reuse_port: bool) -> list[socket.socket]:
    made: list[socket.socket] = []
    port = address.port
    try:
        for place in places:
            try:
                sock = socket.socket(place.family, socket.SOCK_STREAM)
            except OSError as problem:
                if problem.errno == errno.EAFNOSUPPORT and len(places) > 1:
                    continue
                raise
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if place.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "*"))
            try:
                sock.bind((place.sockaddr[0], port, *place.sockaddr[2:]))
            except OSError as problem:
                # "localhost" has an address of IPv6 in /etc/hosts also where the machine has none.
                if problem.errno == errno.EADDRNOTAVAIL and len(places) > 1 and place is not places[-1]:
                    made.pop().close()
                    continue
                raise
            port = sock.getsockname()[1]
            sock.listen(backlog)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def bind_unix(
    address: Address, kind: int, mode: int, backlog: int | None
) -> tuple[socket.socket, tuple[int, int] | None]:
    """A Unix socket bound to a path, in place of one whose process is gone; and what identifies its file.

    A lock on the directory keeps two from taking away the same leftover.
    """
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        if address.abstract:
            sock.bind(address.unix_name)
            if backlog is not None:
                sock.listen(backlog)
            return sock, None
        path = Path(address.path)
        with _locked(path.parent):
            try:
                sock.bind(address.unix_name)
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
                _prove_dead(address, path, kind)
                path.unlink(missing_ok=True)
                sock.bind(address.unix_name)
            # Nobody can connect before listen(2), so nobody comes in before the permissions are right.
            path.chmod(mode)
            if backlog is not None:
                sock.listen(backlog)
            found = path.stat()
        return sock, (found.st_dev, found.st_ino)
    except OSError as problem:
        sock.close()
        raise _unbound(problem, address) from problem
    except BaseException:
        sock.close()
        raise


def unbind_unix(address: Address, identity: tuple[int, int] | None) -> None:
    """Takes the file away, if it is still that of this socket."""
    if identity is None:
        return
    path = Path(address.path)
    with contextlib.suppress(OSError), _locked(path.parent):
        found = path.stat(follow_symlinks=False)
        if (found.st_dev, found.st_ino) == identity:
            path.unlink()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _prove_dead(address: Address, path: Path, kind: int) -> None:
    """Returns when nobody has the socket of that name open: the kernel refuses to connect to it."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, f"{address}: the file is there, and it is no socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        problem = probe.connect_ex(address.unix_name)
    if problem not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
