"""The creator killed in the middle of creation: no half-born object, no leftover, nobody waits for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import isthmus
from siege import Siege
from support import Watchdog, object_files
from workers import message


def test_a_creator_killed_at_a_random_moment_leaves_nothing_half_done(namespace: Path) -> None:
    """Creating takes most of a round here: 32 MiB are reserved, a queue is made of them and removed again."""
    with Siege(seed=8) as siege:
        numbers = iter(range(1, 1 << 20))

        def start() -> None:
            siege.start("come_and_go", queue="born", capacity=32 << 20, number=next(numbers))

        start()
        for _ in range(60):
            siege.bombard(1, Watchdog(), lambda _: start(), pause=0.03)
            # Whatever it left, the name is usable at once: absent, or a whole queue.
            with isthmus.Queue("born", type=bytes, capacity=32 << 20) as handle:
                handle.put(message(0, 0, 64), timeout=20)
                with contextlib.suppress(isthmus.Empty):  # the others take what they find
                    while True:
                        handle.get(timeout=0)
        siege.finish("come_and_go")
        print(f"{siege.kills} kills, {siege.progress()} queues made")
    for name in object_files(namespace):
        assert name == "born", "a leftover under a private name"
    isthmus.clean()
    assert object_files(namespace) == []


def test_many_that_open_or_create_close_and_die_at_once(namespace: Path) -> None:
    """Openers, creators and last closers of one name race; nobody ever gets an object that is not whole."""
    with Siege(seed=9) as siege:
        numbers = iter(range(1, 1 << 20))

        def start() -> None:
            siege.start("come_and_go", queue="born", capacity=128 << 10, number=next(numbers))

        for _ in range(4):
            start()
        siege.bombard(80, Watchdog(), lambda _: start(), pause=0.03)
        siege.finish("come_and_go")
        print(f"{siege.kills} kills, {siege.progress()} times opened and closed")
    isthmus.clean()
    assert object_files(namespace) == []


def test_many_that_open_or_create_and_close_leave_no_name_without_any_kill(namespace: Path) -> None:
    with Siege(seed=10) as siege:
        for number in range(1, 7):
            siege.start("come_and_go", queue="born", capacity=128 << 10, number=number)
        dog = Watchdog()
        siege.wait(dog, 1.0)
        while siege.progress() <= 100:
            siege.wait(dog, 0.1)
        siege.finish("come_and_go")
    assert object_files(namespace) == []
