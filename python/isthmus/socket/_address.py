"""Addresses: what is written `unix:///run/jobs.sock` or `tcp://localhost:5000`, and what the kernel takes."""

import os
import socket
from typing import Any, NamedTuple

from isthmus._errors import Unreachable

__all__ = ["Address", "Place", "of_socket", "parse", "unknown_host"]

_PATH_MAX = 107
"""Bytes of a Unix socket's path that the kernel has room for, unix(7)."""
_LOOKS = (
    'addresses look like "unix:///run/jobs.sock", "unix://@name" (abstract: file permissions do not '
    'protect it), "tcp://host:5000", "tcp://[::1]:5000", "tcp://*:5000" (every interface) or '
    '"udp://host:5000"'
)


class Place(NamedTuple):
    """Something to bind or to connect a socket to."""

    family: int
    sockaddr: Any


class Address(NamedTuple):
    """An address in parts. `str()` writes it as users do."""

    scheme: str
    host: str
    port: int
    path: str
    """Of a Unix socket; one that begins with "@" is abstract."""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def abstract(self) -> bool:
        """Whether it is the name of an abstract socket."""
        return self.path.startswith("@")

    @property
    def unix_name(self) -> bytes:
        """What the kernel takes for the path."""
        raw = os.fsencode(self.path)
        return b"\0" + raw[1:] if self.abstract else raw

    @property
    def _kind(self) -> int:
        return socket.SOCK_DGRAM if self.scheme == "udp" else socket.SOCK_STREAM

    def question(self, *, passive: bool = False) -> tuple[Any, ...]:
        """Arguments for getaddrinfo(3) as event loops have it: host, port, family, kind, 0, flags."""
        host = None if self.host == "*" else self.host
        flags = socket.AI_PASSIVE if passive else 0
        return host, self.port, 0, self._kind, 0, flags

    def places(self, *, passive: bool = False) -> list[Place]:
        """Where that is now, in the order in which to try. Looks names up, which may take its time.

        `Unreachable` for a host that nobody knows.
        """
        if self.scheme == "unix":
            return [Place(socket.AF_UNIX, self.unix_name)]
        try:
            return self.placed(self._look_up(self.question(passive=passive)))
        except socket.gaierror as error:
            raise unknown_host(self, error) from error

    @staticmethod
    def _look_up(question: tuple[Any, ...]) -> list[Any]:
        host, port, family, kind, protocol, flags = question
        return socket.getaddrinfo(host, port, family, kind, protocol, flags)

    def placed(self, answers: list[Any]) -> list[Place]:
        """Places of what getaddrinfo(3) answered."""
        places = [Place(family, sockaddr) for family, _, _, _, sockaddr in answers]
        if self.host == "*":  # one socket of IPv6 takes IPv4 as well, where the machine has IPv6
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            places = [place for place in places if place.family == family] or places
        return list(dict.fromkeys(places))


def unknown_host(address: Address, error: OSError) -> Unreachable:
    """What to raise when a name cannot be looked up."""
    return Unreachable(f"{address}: the host {address.host!r} cannot be found ({error.strerror})")


def parse(text: Any, *schemes: str) -> Address:
    """An address as users write it, or the path of a Unix socket; one of `schemes`, ValueError otherwise."""
    if isinstance(text, os.PathLike):
        text = f"unix://{os.fspath(text)}"
    if not isinstance(text, str):
        raise TypeError(f"an address is a str or a path, not {text!r}; {_LOOKS}")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"unix", "tcp", "udp"}:
        raise ValueError(f"{text!r} is no address; {_LOOKS}")
    if scheme not in schemes:
        raise ValueError(f"{text!r} is an address for something else: here it takes {' or '.join(schemes)}")
    return _unix(text, rest) if scheme == "unix" else _network(text, scheme, rest)


def _unix(text: str, path: str) -> Address:
    if not path or path == "@":
        raise ValueError(f"{text!r} has no path; {_LOOKS}")
    if not path.startswith(("/", "./", "@")):
        raise ValueError(f"{text!r}: the path begins with / or ./, or with @ for an abstract socket")
    if "\0" in path:
        raise ValueError(f"{text!r}: a path has no null bytes")
    size = len(os.fsencode(path))
    if size > _PATH_MAX:
        raise ValueError(f"{text!r}: the path has {size} bytes; a Unix socket takes at most {_PATH_MAX}")
    return Address("unix", "", 0, path)


def _network(text: str, scheme: str, rest: str) -> Address:
    host, separator, digits = rest.rpartition(":")
    if host.startswith("["):
        inside, bracket, after = host[1:].partition("]")
        if not bracket or after or ":" not in inside:
            raise ValueError(f"{text!r}: an IPv6 address stands in brackets; {_LOOKS}")
        host = inside
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in {scheme}://[::1]:5000")
    if not separator or not digits.isdecimal() or not digits.isascii() or int(digits) > 65535:
        raise ValueError(f"{text!r} has no port from 0 to 65535; {_LOOKS}")
    if not host or any(letter.isspace() or letter in "/@?#" for letter in host):
        raise ValueError(f"{text!r} has no host; {_LOOKS}")
    return Address(scheme, host, int(digits), "")


def of_socket(scheme: str, sockaddr: Any) -> Address:
    """The address that the kernel reports of a socket; without a path for one that has no name."""
    if scheme == "unix":
        raw = sockaddr if isinstance(sockaddr, bytes) else os.fsencode(sockaddr)
        path = "@" + os.fsdecode(raw[1:]) if raw.startswith(b"\0") else os.fsdecode(raw)
        return Address("unix", "", 0, path)
    host = sockaddr[0]
    if host.startswith("::ffff:") and "." in host:  # IPv4 over a socket of IPv6
        host = host.removeprefix("::ffff:")
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:  # of one link: it says of which
        try:
            host = f"{host}%{socket.if_indextoname(sockaddr[3])}"
        except OSError:  # the interface is gone
            host = f"{host}%{sockaddr[3]}"
    return Address(scheme, host, sockaddr[1], "")
