"""A web server: the standard library's HTTP on an isthmus Listener, for browsers and curl.

Each client is a stream of bytes, served by a thread. Over TLS the very same code runs: give a certificate.
Over a Unix socket, too: `curl --unix-socket web.sock http://localhost/`.

    python examples/web_server.py [ADDRESS [CERTIFICATE.pem]]       # tcp://127.0.0.1:8000
"""

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler

import isthmus

PATIENCE = 30.0
"""Seconds of silence after which a client is ended."""
PAGE = """<!doctype html><meta charset="utf-8"><title>Isthmus</title>
<h1>Hello from isthmus</h1><p>This is visit {visit}. You are {peer}.</p>
"""


class Visits:
    """A counter for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def one_more(self) -> int:
        """Count a visit."""
        with self._lock:
            self._count += 1
            return self._count


class Handler(BaseHTTPRequestHandler):
    """The standard library's handler, with files of a stream in place of those of a socket."""

    protocol_version = "HTTP/1.1"
    visits = Visits()

    def __init__(self, stream: isthmus.Stream[bytes]) -> None:
        self.stream = stream
        self.client_address = (stream.peer, 0)
        self.rfile = stream.makefile("rb", timeout=PATIENCE)
        self.wfile = stream.makefile("wb", buffering=0, timeout=PATIENCE)
        self.handle()

    def do_GET(self) -> None:
        """Answer with a page, or with what was asked for back."""
        if self.path == "/":
            self.answer(200, PAGE.format(visit=self.visits.one_more(), peer=self.stream.peer))
        else:
            self.answer(404, f"There is no {self.path} here.\n")

    def do_POST(self) -> None:
        """Answer with how much came."""
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        self.answer(200, f"{len(body)} bytes came.\n")

    def answer(self, status: int, text: str) -> None:
        """Send a page."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form: str, *values: object) -> None:
        """Print instead of writing to standard error."""
        print(f"{self.stream.peer}: {form % values}", flush=True)


def serve(stream: isthmus.Stream[bytes]) -> None:
    """One client, until it leaves or is silent for too long."""
    with stream:
        try:
            Handler(stream)
        except (isthmus.IsthmusError, OSError) as error:
            print(f"{stream.peer} ended: {error}", flush=True)


def main() -> int:
    """Listen until Ctrl+C."""
    address = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000"
    tls = isthmus.Tls(sys.argv[2]) if len(sys.argv) > 2 else None
    with isthmus.Listener(address, framing="raw", tls=tls) as listener:
        where = listener.address.replace("tcp", "https" if tls else "http", 1)
        print(f"open {where}/", flush=True)
        try:
            for stream in listener:
                threading.Thread(target=serve, args=(stream,), daemon=True).start()
        except KeyboardInterrupt:
            print("closing", flush=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
