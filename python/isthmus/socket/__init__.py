"""Sockets: `Stream` and `Listener` over Unix sockets and TCP, `Datagram` over UDP and Unix sockets.

The protocol of streams is written down in `_protocol`. Everything stands on the standard library's `socket`
and `ssl`; the kernel does its part well, and these modules do what is left to every application otherwise.
"""

from ._auth import Credentials
from ._numbers import DatagramStats
from ._steps import Backoff
from ._tls import Tls
from .datagram import Datagram, Received
from .listener import Listener, ListenerStats
from .stream import Stream

__all__ = [
    "Backoff",
    "Credentials",
    "Datagram",
    "DatagramStats",
    "Listener",
    "ListenerStats",
    "Received",
    "Stream",
    "Tls",
]
