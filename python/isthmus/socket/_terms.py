"""What a side insists on, from the arguments that streams and listeners share."""

import ssl
from typing import Any, Literal, NamedTuple, TypeAlias

from isthmus._codec import OBJECT, Codec, codec_for
from isthmus._errors import Unsupported

from ._address import Address
from ._auth import Users, key_of, users_of

__all__ = ["Framing", "Terms", "terms_for"]

Framing: TypeAlias = Literal["messages", "lines", "raw"]

LIMIT = 64 << 20
"""Bytes of the largest message (or line), unless said otherwise."""
_LINE = 1 << 20
DESCRIPTORS_MAX = 253
"""As many descriptors the kernel takes at a time (SCM_MAX_FD)."""


class Terms(NamedTuple):
    """What a side insists on, the same for each of its connections."""

    framing: Framing
    codec: Codec | None
    """None for bytes."""
    limit: int
    key: bytes | None
    users: frozenset[int] | None
    """None for everybody."""
    descriptors: int
    context: ssl.SSLContext | None
    server_name: str | None
    keepalive: float | None
    tls: Any = None
    """The `Tls` that the context of a listener was made of, for processes that it goes to."""

    @property
    def fingerprint(self) -> int:
        """Of the type; 0 for bytes."""
        return self.codec.fingerprint if self.codec is not None else 0

    @property
    def type_name(self) -> str:
        """Of the type."""
        return self.codec.name if self.codec is not None else "bytes"

    @property
    def pickles(self) -> bool:
        """Whether messages are pickled, so that who sends one can run code here."""
        return self.fingerprint == OBJECT


def terms_for(
    address: Address,
    type: Any,
    framing: Framing,
    limit: int | None,
    key: bytes | str | None,
    users: Users,
    descriptors: int,
    context: ssl.SSLContext | None,
    server_name: str | None,
    keepalive: float | None,
) -> Terms:
    """Checks what does not depend on who is on the other side."""
    if framing not in {"messages", "lines", "raw"}:
        raise ValueError(f'framing={framing!r} is "messages", "lines" or "raw"')
    unix = address.scheme == "unix"
    if framing == "messages":
        codec = codec_for(Any if type is None else type)
    else:
        codec = None
        for given, name in ((type, "type"), (key, "key"), (descriptors or None, "descriptors")):
            if given is not None:
                raise ValueError(
                    f'{name}= goes with framing="messages"; with {framing!r} there is nobody to agree'
                )
    if limit is None:
        limit = LIMIT if framing == "messages" else _LINE
    if not 1 <= limit < 1 << 62:
        raise ValueError(f"limit={limit}: it takes a number of bytes from 1 upwards")
    if not 0 <= descriptors <= DESCRIPTORS_MAX:
        raise ValueError(f"descriptors={descriptors}: a message takes 0 to {DESCRIPTORS_MAX} of them")
    if descriptors and not unix:
        raise Unsupported(f"{address}: descriptors are passed over Unix sockets only")
    if context is not None and unix:
        raise Unsupported(f"{address}: TLS is for tcp://; who is on a Unix socket the kernel says")
    if keepalive is not None and not 1 <= keepalive <= 32767:
        raise ValueError(f"keepalive={keepalive}: it takes 1 to 32767 seconds, or None")
    # With foreign programs the file's permissions decide, as users are used to; an abstract name has none.
    everybody = framing != "messages" and users is None and not address.abstract
    terms = Terms(
        framing, codec, limit, key_of(key), None if everybody else users_of(users), descriptors, context,
        server_name, keepalive,
    )  # fmt: skip
    if terms.pickles and not unix:
        raise Unsupported(
            f"{address}: type=object (pickle) lets who sends run code here, so it takes a Unix socket and a "
            "peer of the same user; over TCP use a type that msgspec takes"
        )
    return terms
