"""Everything that is taken and given back, and what two processes hand each other by it."""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import Channel, LockPeer, Opened, Peer, Place, Receiver, Sender
from .isthmus_peer import MUTEX, namespace
from .posix import SEMAPHORE as POSIX_SEMAPHORE
from .standard import FORK
from .standard import LOCK as MP_LOCK
from .surviving import FILE
from .surviving import SEMAPHORE as SYSV_SEMAPHORE

MESSAGE = bytes(range(64))  # what a round trip of these compares: nothing is sent


def ours(key: str, title: str, make: Callable[[Any, str, str], Any], **options: Any) -> LockPeer:
    """One of isthmus: `make` takes the module, a name and a namespace."""

    def prepare(place: Place) -> Opened:
        directory = namespace(place)
        return lambda: calls(make(importlib.import_module("isthmus"), place.name, directory))

    return LockPeer(key, title, prepare, module="isthmus", distribution="isthmus", **options)


def calls(thing: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    return thing.acquire, thing.release


def theirs(key: str, title: str, make: Callable[[], Any], **options: Any) -> LockPeer:
    """One of multiprocessing, made before the fork."""

    def prepare(place: Place) -> Opened:
        thing = make()
        return lambda: calls(thing)

    return LockPeer(key, title, prepare, **options)


class Asked:
    """A thing that is only asked; `single` contenders do not give back."""

    def __init__(self, event: Any) -> None:
        self.acquire = self.release = event.is_set
        event.set()


RLOCK = ours("rlock", "Isthmus RLock", lambda m, name, where: m.RLock(name, namespace=where))
SEMAPHORE = ours("semaphore", "Isthmus Semaphore", lambda m, name, where: m.Semaphore(name, namespace=where))
BOUNDED = ours(
    "bounded", "Isthmus BoundedSemaphore", lambda m, name, where: m.BoundedSemaphore(name, namespace=where)
)
READ = ours("read", "Isthmus RWLock.read", lambda m, name, where: m.RWLock(name, namespace=where).read)
WRITE = ours("write", "Isthmus RWLock.write", lambda m, name, where: m.RWLock(name, namespace=where).write)
IS_SET = ours(
    "is-set",
    "Isthmus Event.is_set",
    lambda m, name, where: Asked(m.Event(name, namespace=where)),
    single=True,
    note="one call, not a pair",
)
MP_RLOCK = theirs("mp-rlock", "multiprocessing.RLock", FORK.RLock)
MP_SEMAPHORE = theirs("mp-semaphore", "multiprocessing.Semaphore", FORK.Semaphore)
MP_BOUNDED = theirs("mp-bounded", "multiprocessing.BoundedSemaphore", FORK.BoundedSemaphore)
MP_IS_SET = theirs(
    "mp-is-set",
    "multiprocessing.Event.is_set",
    lambda: Asked(FORK.Event()),
    single=True,
    note="one call, not a pair",
)


def prepare_fastipc(place: Place) -> Opened:
    return lambda: calls(importlib.import_module("fastipc").NamedMutex(place.name))


def remove_fastipc(place: Place) -> None:
    for left in Path("/dev/shm").glob(f"*fastipc*{place.name}*"):
        left.unlink(missing_ok=True)


FASTIPC = LockPeer(
    "fastipc",
    "fastipc.NamedMutex",
    prepare_fastipc,
    clean=remove_fastipc,
    module="fastipc",
    distribution="fastipc",
    note="futex; a killed holder keeps it until `force_release`",
)

ISTHMUS = (MUTEX, RLOCK, SEMAPHORE, BOUNDED, READ, WRITE, IS_SET)
OTHERS = (
    MP_LOCK,
    MP_RLOCK,
    MP_SEMAPHORE,
    MP_BOUNDED,
    MP_IS_SET,
    POSIX_SEMAPHORE,
    SYSV_SEMAPHORE,
    FASTIPC,
    FILE,
)


class HandOver(Channel):
    """A flag under a condition: `send` raises it, `recv` waits for it and lowers it."""

    def __init__(self, place: Place, size: int) -> None:
        self.place = place
        self.flag = mmap.mmap(-1, mmap.PAGESIZE)  # shared with both by fork
        self.prepare()

    def prepare(self) -> None:
        """In the parent."""

    def condition(self) -> Any:
        return importlib.import_module("isthmus").Condition(self.place.name, namespace=namespace(self.place))

    def sender(self) -> Sender:
        condition, flag = self.condition(), self.flag

        def send(_message: Any) -> None:
            with condition:
                flag[0] = 1
                condition.notify()

        return Sender(send, keep=condition)

    def receiver(self) -> Receiver:
        condition, flag = self.condition(), self.flag

        def recv() -> bool:
            with condition:
                while not flag[0]:
                    condition.wait()
                flag[0] = 0
            return True

        return Receiver(recv, keep=condition, unwrap=lambda _true: MESSAGE)

    def close(self) -> None:
        self.flag.close()


class MpHandOver(HandOver):
    def prepare(self) -> None:
        self.made = FORK.Condition()

    def condition(self) -> Any:
        return self.made


class Meeting(Channel):
    """A barrier of two: both ends only wait."""

    def __init__(self, place: Place, size: int) -> None:
        self.place = place
        self.prepare()

    def prepare(self) -> None:
        """In the parent."""

    def barrier(self) -> Any:
        return importlib.import_module("isthmus").Barrier(self.place.name, 2, namespace=namespace(self.place))

    def sender(self) -> Sender:
        barrier = self.barrier()
        wait = barrier.wait
        return Sender(lambda _message: wait(), keep=barrier)

    def receiver(self) -> Receiver:
        barrier = self.barrier()
        return Receiver(barrier.wait, keep=barrier, unwrap=lambda _which: MESSAGE)


class MpMeeting(Meeting):
    def prepare(self) -> None:
        self.made = FORK.Barrier(2)

    def barrier(self) -> Any:
        return self.made


CONDITIONS = (
    Peer("isthmus", "Isthmus Condition", HandOver, module="isthmus", distribution="isthmus"),
    Peer("mp-condition", "multiprocessing.Condition", MpHandOver),
)
BARRIERS = (
    Peer("isthmus", "Isthmus Barrier", Meeting, module="isthmus", distribution="isthmus"),
    Peer("mp-barrier", "multiprocessing.Barrier", MpMeeting),
)
