"""Streams over Unix sockets and TCP."""

from __future__ import annotations

from benches.compare.contenders import LinkStream, LinkTrip
from benches.compare.peers.sockets import peers

from .base import BEST, Case, Choice, Target, case
from .round_trip import MESSAGE, PAUSE
from .stream import message_of

LARGE = 1 << 20
NAMES = {False: "a Unix socket", True: "TCP"}


def trip(key: str, tcp: bool, pause: float = 0.0) -> Case:
    return Case(
        key,
        f"64 B round trip over {NAMES[tcp]}" + (", 1 ms pause before each" if pause else ""),
        "us",
        [LinkTrip(peer, MESSAGE, pause) for name, peer in peers(tcp=tcp).items() if name != "isthmus-kept"],
        [Target("isthmus", "raw-socket", at_most=1.1), Target("isthmus", "mp-connection", at_most=1)],
        f"`send` and `recv` of 64 B there and back over one connection ({NAMES[tcp]}, this machine). The raw "
        "socket blocks, in `sendall` and in `recv` of a size it knows; nobody else has to be told one."
        + (
            " With the pause both sides sleep."
            if pause
            else " It sleeps at once; who waits in `Stream.recv` looks for a moment first."
        ),
        "Who sleeps pays for two context switches: they are nearly all of it. Over a network its delay is.",
        latency=True,
    )


def stream(key: str, tcp: bool) -> Case:
    return Case(
        key,
        f"64 B stream over {NAMES[tcp]}",
        "M/s",
        [LinkStream(peer, MESSAGE) for peer in peers(tcp=tcp).values()],
        [Target("isthmus-kept", "mp-connection", at_least=2)],
        "Messages of 64 B in one direction, one call a message on each side. With `flush=False` small "
        "messages wait for each other, up to 64 KiB; the burst ends with `flush()`. Without it each is a "
        "system call of its own on the sending side.",
        "Whoever waits for an answer has to flush, and then it is a round trip. pyzmq puts messages together "
        "in a thread of its own.",
        subject="isthmus-kept",
        keep={"isthmus"},
    )


def large(key: str, tcp: bool) -> Case:
    return Case(
        key,
        f"1 MiB messages over {NAMES[tcp]}",
        "GB/s",
        [
            LinkStream(peer, message_of(LARGE))
            for name, peer in peers(tcp=tcp).items()
            if name != "isthmus-kept"
        ],
        [Target("isthmus", BEST, at_least=1)],
        "Messages of 1 MiB, bytes to bytes. The best peer is whichever is fastest in this run, the raw "
        "socket included, which receives into an object of a size it knows.",
        "Two copies through the kernel. `Queue` moves the same through shared memory many times faster.",
        size=LARGE,
        keep={"raw-socket", "mp-connection"},
    )


@case("socket-unix")
def socket_unix(choice: Choice) -> Case:
    return trip("socket-unix", tcp=False)


@case("socket-tcp")
def socket_tcp(choice: Choice) -> Case:
    return trip("socket-tcp", tcp=True)


@case("socket-unix-paused")
def socket_unix_paused(choice: Choice) -> Case:
    return trip("socket-unix-paused", tcp=False, pause=PAUSE)


@case("socket-tcp-paused")
def socket_tcp_paused(choice: Choice) -> Case:
    return trip("socket-tcp-paused", tcp=True, pause=PAUSE)


@case("socket-stream-unix")
def socket_stream_unix(choice: Choice) -> Case:
    return stream("socket-stream-unix", tcp=False)


@case("socket-stream-tcp")
def socket_stream_tcp(choice: Choice) -> Case:
    return stream("socket-stream-tcp", tcp=True)


@case("socket-large-unix")
def socket_large_unix(choice: Choice) -> Case:
    return large("socket-large-unix", tcp=False)


@case("socket-large-tcp")
def socket_large_tcp(choice: Choice) -> Case:
    return large("socket-large-tcp", tcp=True)
