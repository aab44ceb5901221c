"""TLS for streams: `Tls` says who proves what, `TlsChannel` is a socket as the rest of the package sees one.

The engine of OpenSSL works in memory (`ssl.MemoryBIO`), and we move what it makes and takes. So one thread
may receive while another sends, each call has its own timeout, and event loops share the code.
"""

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from isthmus._errors import Denied, IncompatibleError

from ._steps import Need, Steps

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Tls", "TlsChannel", "client_context", "open_tls", "server_context"]

_PIECE = 1 << 16
"""Bytes encrypted at a time: what is kept here when the socket takes no more."""
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Tls:
    """Certificates for TLS (version 1.2 or later), in PEM files.

    - `certificate` and `key` prove who this side is: needed by a `Listener`, and by a `Stream` whose server
      asks for it. The key may stand in the certificate's file.
    - `authority` is the certificate of who signs the other side's. A `Stream` without it trusts what the
      system trusts. A `Listener` with it takes only clients that show a certificate signed by it: mutual
      TLS.
    - `server_name` is the name that the server's certificate has to be for; the host of the address if not
      given.

    A server's certificate is always checked, its name included. For anything else give an `ssl.SSLContext`.
    """

    __slots__ = {
        "authority": "File of the certificates that sign the other side's.",
        "certificate": "File of this side's certificate, with those between it and the authority.",
        "key": "File of its private key.",
        "server_name": "The name in the server's certificate, where it is not the host of the address.",
    }

    def __init__(
        self,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        *,
        authority: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
    ) -> None:
        if key is not None and certificate is None:
            raise ValueError("key= is the private key of certificate=, which is missing")
        self.certificate = certificate
        self.key = key
        self.authority = authority
        self.server_name = server_name

    def __repr__(self) -> str:
        return f"Tls(certificate={self.certificate!r}, authority={self.authority!r})"


def client_context(tls: Any) -> ssl.SSLContext:
    """What `tls=` of a stream means: True, a `Tls` or an `ssl.SSLContext`."""
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls is True:
        tls = Tls()
    if not isinstance(tls, Tls):
        raise TypeError(f"tls={tls!r} is True, an isthmus.Tls or an ssl.SSLContext")
    context = ssl.create_default_context(cafile=tls.authority)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def server_context(tls: Any) -> ssl.SSLContext:
    """What `tls=` of a listener means: a `Tls` with a certificate, or an `ssl.SSLContext`."""
    if isinstance(tls, ssl.SSLContext):
        return tls
    if not isinstance(tls, Tls):
        raise TypeError(f"tls={tls!r} is an isthmus.Tls or an ssl.SSLContext")
    if tls.certificate is None:
        raise ValueError("a listener with tls= needs Tls(certificate=…, key=…)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.authority)
    return context


class TlsChannel:
    """The calls of a socket that streams use, encrypted. `recv` and `send` know MSG_DONTWAIT.

    What `send` takes is encrypted, and the part that the socket did not take waits in `pending` for `flush`.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server: bool, name: str | None) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.engine = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        self._engine_lock = threading.Lock()
        self._socket_lock = threading.Lock()
        # Bytes of the encrypted stream that the socket did not take yet, and how many of them it took since.
        self._cipher = b""
        self._gone = 0

    @property
    def pending(self) -> bool:
        """Whether encrypted bytes wait for `flush`."""
        return bool(self._out.pending or len(self._cipher) > self._gone)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to `size` bytes; b"" at an end that the other side announced."""
        while True:
            with self._engine_lock:
                try:
                    return self.engine.read(size)  # one record at a time
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLEOFError:
                    raise ConnectionResetError(
                        104, "the connection was cut: TLS did not announce its end"
                    ) from None
            if self._out.pending:  # an answer that TLS owes; what cannot go now goes with the next send
                self._flush_some()
            for data in map(self._sock.recv, (_PIECE,), (flags & socket.MSG_DONTWAIT,)):
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()

    def recv_into(self, buffer: "Buffer", size: int = 0, flags: int = 0) -> int:
        """As `recv`, into a buffer."""
        view = memoryview(buffer)
        data = self.recv(size or view.nbytes, flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: "Buffer", flags: int = 0) -> int:
        """Encrypts and sends the first bytes of `data`; how many. BlockingIOError when none were taken."""
        self.flush(flags)
        with memoryview(data) as view, view.cast("B") as flat, flat[:_PIECE] as piece:
            with self._engine_lock:
                taken = self.engine.write(piece) if piece.nbytes else 0
        with contextlib.suppress(BlockingIOError):
            self.flush(flags)
        return taken

    def sendmsg(self, buffers: "Iterable[Buffer]", _ancillary: object = (), flags: int = 0) -> int:
        """As `send`, of the first buffers that fit into a piece."""
        parts = []
        size = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")[: _PIECE - size]
            parts.append(view)
            size += view.nbytes
            if size == _PIECE:
                break
        return self.send(parts[0] if len(parts) == 1 else b"".join(parts), flags)

    def flush(self, flags: int = 0) -> None:
        """Sends what waits; BlockingIOError when the socket does not take it all now."""
        with self._socket_lock:
            while True:
                if self._gone == len(self._cipher):
                    with self._engine_lock:
                        cipher = self._out.read()
                    self._cipher, self._gone = cipher, 0
                    if not cipher:
                        return
                gone = self._gone
                rest = memoryview(self._cipher)[gone:]
                for sent in map(self._sock.send, (rest,), (flags | socket.MSG_NOSIGNAL,)):
                    self._gone = gone + sent

    def _flush_some(self) -> None:
        if self._socket_lock.acquire(blocking=False):  # who sends flushes anyway
            self._socket_lock.release()
            with contextlib.suppress(BlockingIOError):
                self.flush(_NOW)

    def finish(self) -> None:
        """Announces that nothing more comes; what cannot be sent at once is not sent."""
        with self._engine_lock:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.engine.unwrap()
        with contextlib.suppress(OSError):
            self.flush(_NOW)


def open_tls(
    sock: socket.socket, context: ssl.SSLContext, *, server: bool, name: str | None, who: object
) -> Steps[TlsChannel]:
    """The handshake of TLS, in steps; `Denied` where a certificate is not what it has to be."""
    channel = TlsChannel(sock, context, server, name)
    with failures(who):
        done = False
        while not done:
            wants = False
            try:
                channel.engine.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                wants = True
            except ssl.SSLError:
                _tell_why(channel)
                raise
            yield from _flushed(channel, sock)
            if wants:
                yield from _fed(channel, sock)
    return channel


def _tell_why(channel: TlsChannel) -> None:
    # The alert that says what was wrong; nothing waits for it.
    with contextlib.suppress(OSError):
        channel.flush(_NOW)


def _flushed(channel: TlsChannel, sock: socket.socket) -> Steps[None]:
    while True:
        try:
            channel.flush(_NOW)
        except BlockingIOError:
            yield Need(sock.fileno(), select.POLLOUT)
        else:
            return


def _fed(channel: TlsChannel, sock: socket.socket) -> Generator[Need, bool, None]:
    while True:
        try:
            data = sock.recv(_PIECE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            yield Need(sock.fileno(), select.POLLIN)
            continue
        if data:
            channel._in.write(data)
        else:
            channel._in.write_eof()
        return


@contextmanager
def failures(who: object) -> Iterator[None]:
    """Errors of TLS as those of this package."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Denied(f"{who}: its certificate is not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "certificate" in reason or "unknown ca" in reason:
            raise Denied(f"{who}: TLS says {reason}") from error
        raise IncompatibleError(
            f"{who}: no TLS connection ({reason}); does the other side speak TLS?"
        ) from error
