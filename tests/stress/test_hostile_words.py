"""Shared memory overwritten under processes that have it open: between their calls, and while they read it.

What is open, who is attached and the registry are hit here, in processes as users start them; many more
cases run in the core's own tests (`crates/isthmus-core/tests/fuzz`). Each call ends well or with one of
isthmus's own errors; no process ends, stands still or grows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from hostile import (
    ALL_THE_TIME,
    ON_DEMAND,
    REGISTRY_HEADER,
    REGISTRY_SLOT,
    SEED,
    Damaged,
    object_parts,
    owners,
    watched,
)
from support import Peer

Start = Callable[..., Peer]

CASES = 500
"""Cases of each test; each makes six calls in two processes."""


@pytest.fixture
def objects(other_namespace: Path, monkeypatch: pytest.MonkeyPatch, spawn: Start) -> dict[str, Path]:
    """Files of a queue, a mutex and a value that stay, in a namespace that may be harmed."""
    monkeypatch.setenv("ISTHMUS_NAMESPACE", str(other_namespace))
    keeper = spawn("""
        import sys, isthmus
        q = isthmus.Queue("jobs", type=bytes, capacity=256 << 10, priorities=2, persistent=True)
        lock, number = isthmus.Mutex("lock"), isthmus.Value("number", persistent=True)
        for size in (10, 9000, 50, 6000):
            q.put(bytes(size))
            q.put(bytes(size), priority=1)
        q.lease().reject("no use")
        q.lease().nack("again")
        held = q.lease()
        print("ready", flush=True)
        sys.stdin.readline()
    """)
    keeper.expect("ready")
    return {name: other_namespace / name for name in ("jobs", "lock", "number", ".registry")}


def of_object(path: Path, users: list[int]) -> Damaged:
    return Damaged(path, object_parts(path), users)


def of_registry(path: Path, users: list[int]) -> Damaged:
    """The header, and the slots of those who use the namespace."""
    slots = sorted({word >> 3 & 0xFFF for word in users})
    parts = [(0, 64)]
    for slot in slots:
        start = REGISTRY_HEADER + REGISTRY_SLOT * slot
        parts.append((start, start + REGISTRY_SLOT))
    return Damaged(path, parts, [word >> 39 << 8 | state for word in users for state in (2, 3)])


def targets(objects: dict[str, Path]) -> dict[str, Damaged]:
    users = owners(objects["jobs"])
    return {
        name: of_registry(path, users) if name == ".registry" else of_object(path, users)
        for name, path in objects.items()
    }


def restore(damaged: dict[str, Damaged]) -> None:
    """All of it: who was buried in a registry that was damaged has lost what it had in the objects."""
    for one in damaged.values():
        one.restore()


ALL = ("jobs", "lock", "number", ".registry")
WHAT = [("jobs",), ("lock", "number"), (".registry",), ALL]


@pytest.mark.parametrize("names", WHAT, ids="+".join)
def test_words_overwritten_between_calls(
    objects: dict[str, Path], names: tuple[str, ...], spawn: Start
) -> None:
    peers = [spawn(ON_DEMAND), spawn(ON_DEMAND)]
    for peer in peers:
        peer.expect("ready")
    damaged = targets(objects)
    with watched(*peers):
        for seed in range(SEED, SEED + CASES):
            choose = random.Random(seed)
            restore(damaged)
            for name in names:
                damaged[name].damage(choose)
            for peer in peers:
                peer.send(str(seed))
            for peer in peers:
                peer.expect(f"survived {seed}")
        restore(damaged)
        for peer in peers:
            peer.send("1")
            peer.expect("survived 1")
    for peer in peers:
        peer.finish()
    check_whole()


@pytest.mark.parametrize("names", WHAT, ids="+".join)
def test_words_overwritten_while_they_are_read(
    objects: dict[str, Path], names: tuple[str, ...], spawn: Start
) -> None:
    """This process overwrites words and puts them back as fast as it can, while two others never stop."""
    peers = [spawn(ALL_THE_TIME, SEED + number) for number in range(2)]
    for peer in peers:
        peer.expect("ready")
    damaged = targets(objects)
    for peer in peers:
        peer.send()
    choose = random.Random(SEED)
    with watched(*peers):
        for _ in range(8):
            # So many calls were made beside it that it must have met some of them.
            for peer in peers:
                until = time.monotonic() + 0.1
                while time.monotonic() < until:
                    for name in names:
                        damaged[name].damage(choose)
                    if choose.random() < 0.3:
                        restore(damaged)
                assert int(peer.line()) > 0
        restore(damaged)
        for peer in peers:
            assert int(peer.line()) > 0
    for peer in peers:
        peer.kill()
    restore(damaged)
    check_whole()


def check_whole() -> None:
    """Everything can be used again: what was damaged was the memory and nothing else."""
    with isthmus.Queue.open("jobs", type=bytes) as q:
        q.put(b"last", 1)
        while q.get(1) != b"last":
            pass
    with isthmus.Value.open("number") as number:
        number.set(1)
        assert number.add(1) == 2


TYPED = """
    import contextlib, dataclasses, faulthandler, sys, warnings, msgspec, numpy, isthmus
    warnings.simplefilter("ignore")
    class Part(msgspec.Struct):
        name: str
        number: int
        tags: dict[str, list[float]]
    @dataclasses.dataclass
    class Whole:
        text: str
        data: bytes
        parts: list[Part]
    whole = Whole("é" * 3000, bytes(3000), [Part("ab" * 50, n, {"x": [0.5] * 20}) for n in range(50)])
    of_objects = isthmus.Queue("objects", type=Whole, capacity=1 << 20)
    of_arrays = isthmus.Queue("arrays", type=numpy.ndarray, capacity=1 << 20)
    array = numpy.arange(5000)
    print("ready", flush=True)
    sys.stdin.readline()
    def attempt(call):
        with contextlib.suppress(isthmus.IsthmusError):
            return call()
    calls = 0
    while True:
        faulthandler.dump_traceback_later(60, exit=True)
        for _ in range(50):
            attempt(lambda: of_objects.put(whole, 0))
            found = attempt(lambda: of_objects.get(0))
            assert found is None or (type(found) is Whole and repr(found) and found.text.encode())
            attempt(lambda: of_objects.put(whole, 0))
            job = attempt(lambda: of_objects.lease(0, view=True))
            del job
            attempt(lambda: of_arrays.put(array, 0))
            got = attempt(lambda: of_arrays.get_view(0))
            assert got is None or got.sum() is not None
            attempt(of_objects.dead.get)
            attempt(of_arrays.dead.get)
        calls += 1
        print(calls, flush=True)
"""


def test_messages_overwritten_while_they_are_decoded(
    other_namespace: Path, monkeypatch: pytest.MonkeyPatch, spawn: Start
) -> None:
    """A large message is decoded where others can write; what comes out of it is of the type all the same."""
    monkeypatch.setenv("ISTHMUS_NAMESPACE", str(other_namespace))
    peer = spawn(TYPED)
    peer.expect("ready")
    damaged = []
    for name in ("objects", "arrays"):
        path = other_namespace / name
        size = path.stat().st_size
        damaged.append(Damaged(path, [(size - (512 << 10), size - (480 << 10))]))  # the units used first
    peer.send()
    choose = random.Random(SEED)
    with watched(peer):
        for _ in range(10):
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                for one in damaged:
                    one.damage(choose)
            assert int(peer.line()) > 0
    peer.kill()
