"""The kernel's mechanisms: what our interface costs on top of the bare calls."""

from __future__ import annotations

from collections.abc import Sequence

from benches.compare.contenders import InOneProcess, Lock, RoundTrip, Stream
from benches.compare.peers import Peer, posix, standard
from benches.compare.peers.kernel import (
    BARE_FIFO,
    BARE_PACKETS,
    BARE_PIPE,
    BARE_QUEUE,
    BARE_SEMAPHORE,
    OUR_FIFO,
    OUR_PIPE,
    OUR_QUEUE,
    OUR_SEMAPHORE,
    PLAIN_CONNECTION,
)
from benches.compare.peers.locks import MP_SEMAPHORE

from .base import Case, Choice, Target, case
from .round_trip import MESSAGE
from .stream import message_of

BARE = 1.15  # what an interface may cost beside the bare call
BESIDE = (PLAIN_CONNECTION, posix.QUEUE)
PIPES = (OUR_PIPE, BARE_PIPE, standard.PIPE, *BESIDE)
FIFOS = (OUR_FIFO, BARE_FIFO, BARE_PACKETS, *BESIDE)
QUEUES = (OUR_QUEUE, BARE_QUEUE, posix.QUEUE, PLAIN_CONNECTION)
LOOP = "The bare loop is one call of `os.write` or `os.read` a message of known size, and nothing else"


def small(key: str, title: str, peers: Sequence[Peer], meaning: str, limits: str) -> Case:
    return Case(
        key,
        title,
        "M/s",
        [Stream(peer, MESSAGE) for peer in peers],
        [
            Target("isthmus", "bare", at_most=BARE),
            *(Target("isthmus", peer.key, at_least=1) for peer in BESIDE),
        ],
        meaning,
        limits,
    )


def trip(key: str, title: str, peers: Sequence[Peer], meaning: str) -> Case:
    return Case(
        key,
        title,
        "us",
        [RoundTrip(peer, MESSAGE) for peer in peers],
        [
            Target("isthmus", "bare", at_most=BARE),
            *(Target("isthmus", peer.key, at_most=1) for peer in BESIDE),
        ],
        meaning,
        "Two context switches are nearly all of it, so all that sleep in the kernel are close to each other; "
        "`Queue` in shared memory does not go there.",
        latency=True,
    )


@case("pipe-small")
def pipe_small(choice: Choice) -> Case:
    return small(
        "pipe-small",
        "64 B stream through a pipe",
        PIPES,
        "Messages of 64 B, one call of `send` or `recv` each, framed, and `bytes` at the other end. "
        f"{LOOP}. A reader of Isthmus reads ahead, many messages with one call.",
        "Both keep up. A reader that is faster than the writer finds one message at a time, and then each "
        "costs a call of the kernel on both sides, and often a wake-up.",
    )


@case("pipe-trip")
def pipe_trip(choice: Choice) -> Case:
    return trip(
        "pipe-trip",
        "64 B round trip through pipes",
        PIPES,
        f"64 B there and back through two pipes, by `send` and `recv`. {LOOP}.",
    )


@case("pipe-large")
def pipe_large(choice: Choice) -> Case:
    size = 1 << 20
    return Case(
        "pipe-large",
        "1 MiB messages through a pipe",
        "GB/s",
        [Stream(peer, message_of(size)) for peer in (OUR_PIPE, BARE_PIPE, standard.PIPE, PLAIN_CONNECTION)],
        [Target("isthmus", "mp-pipe-plain", at_least=1), Target("isthmus", "mp-pipe", at_least=1)],
        "Messages of 1 MiB, bytes to bytes, with 1 MiB of pipe: `Pipe(capacity=1 << 20)`. "
        "multiprocessing.Pipe as it comes and, beside it, with its pipe made as large by hand. posix_ipc has "
        "no messages of this size.",
        "Two copies, into the kernel and out of it, which the two cores share in turns. The bytes are the "
        "same again and again, so they are in the cache.",
        size=size,
    )


@case("fifo")
def fifo(choice: Choice) -> Case:
    return small(
        "fifo",
        "64 B stream through a FIFO",
        FIFOS,
        f"As through a pipe, but by its name in the file system. {LOOP}.",
        "One writer. Whoever else writes, and whoever is killed, messages stay whole: each is a packet of "
        "the kernel (O_DIRECT), with a page of the pipe to itself. The bare loop puts 64 into a page; "
        "in packet mode it has the same work as ours.",
    )


@case("fifo-trip")
def fifo_trip(choice: Choice) -> Case:
    return trip(
        "fifo-trip",
        "64 B round trip through FIFOs",
        FIFOS,
        f"64 B there and back through two FIFOs. {LOOP}.",
    )


@case("mq")
def mq(choice: Choice) -> Case:
    return Case(
        "mq",
        "64 B into the kernel's queue and out of it",
        "ns",
        [InOneProcess(peer, MESSAGE) for peer in QUEUES],
        [
            Target("isthmus", "bare", at_most=BARE),
            Target("isthmus", "posix-mq", at_most=1),
            Target("isthmus", "mp-pipe-plain", at_most=1),
        ],
        "One process puts 64 B into a POSIX message queue and gets it back: two system calls and what is "
        "around them. Python has no call of its own for them, so the bare loop goes through ctypes; "
        "posix_ipc is the thinnest layer in C.",
        "One process, so nobody has to be woken.",
    )


@case("mq-trip")
def mq_trip(choice: Choice) -> Case:
    return trip(
        "mq-trip",
        "64 B round trip through kernel queues",
        QUEUES,
        "64 B there and back through two POSIX message queues; the bare loop calls mq_send and mq_receive by "
        "ctypes.",
    )


@case("named-semaphore")
def named_semaphore(choice: Choice) -> Case:
    return Case(
        "named-semaphore",
        "NamedSemaphore, acquire and release",
        "ns",
        [Lock(lock, 1) for lock in (OUR_SEMAPHORE, BARE_SEMAPHORE, posix.SEMAPHORE, MP_SEMAPHORE)],
        [
            Target("isthmus", "bare", at_most=BARE),
            Target("isthmus", "posix-sem", at_most=1),
        ],
        "sem_wait(3) and sem_post(3) on a named semaphore, uncontended; glibc stays out of the kernel. The "
        "bare loop calls them by ctypes.",
        "A wait that has to sleep costs a system call and a context switch, whoever makes it. "
        "multiprocessing.Semaphore has no name and is the same call of glibc.",
        keep={"mp-semaphore"},
    )
