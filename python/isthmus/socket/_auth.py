"""Who is on the other side: users of this machine (SO_PEERCRED), and a shared key (HMAC)."""

import hmac
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from isthmus._errors import Denied

__all__ = ["Credentials", "Users", "check_user", "credentials_of", "key_of", "proof", "users_of"]

Users: TypeAlias = 'Literal["any"] | Iterable[int | str] | None'

_UCRED = struct.Struct("iII")
_KEY_MIN = 16


class Credentials(NamedTuple):
    """Who connected to a Unix socket, as the kernel noted at that moment, SO_PEERCRED in unix(7)."""

    pid: int
    """Process id, as this process sees it; 0 where it is in a PID namespace that this one cannot see."""
    uid: int
    """User."""
    gid: int
    """Group."""


def credentials_of(sock: socket.socket) -> Credentials | None:
    """Who is on the other side; None for anything but a Unix socket."""
    if sock.family != socket.AF_UNIX:
        return None
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def users_of(users: Users) -> frozenset[int] | None:
    """User ids of what was given as `users=`; None for everybody."""
    if users is None:
        return frozenset({os.geteuid(), 0})
    if users == "any":
        return None
    if isinstance(users, str):
        raise TypeError(f'users={users!r} is "any", or a collection of user ids and names')
    found = set()
    for user in users:
        try:
            found.add(pwd.getpwnam(user).pw_uid if isinstance(user, str) else int(user))
        except KeyError:
            raise ValueError(f"users: this machine has no user {user!r}") from None
    return frozenset(found)


def check_user(found: Credentials | None, allowed: frozenset[int] | None, address: object) -> None:
    """`Denied` when the process on the other side of a Unix socket is none of the users allowed."""
    if found is None or allowed is None or found.uid in allowed:
        return
    listed = ", ".join(map(str, sorted(allowed)))
    raise Denied(
        f"{address}: process {found.pid} on the other side is of user {found.uid}; allowed here: {listed}"
    )


def key_of(key: bytes | str | None) -> bytes | None:
    """The shared key as bytes; ValueError for one that can be guessed by trying all."""
    if key is None:
        return None
    raw = key.encode() if isinstance(key, str) else bytes(key)
    if len(raw) < _KEY_MIN:
        raise ValueError(
            f"key has {len(raw)} bytes; a shared key needs {_KEY_MIN}, as of secrets.token_bytes(32)"
        )
    return raw


def proof(key: bytes, role: int, connected: bytes, accepted: bytes) -> bytes:
    """What a side of this role shows after these two hellos."""
    text = b"isthmus stream 1, proof of who " + (b"accepted" if role else b"connected")
    return hmac.digest(key, text + connected + accepted, "sha256")
