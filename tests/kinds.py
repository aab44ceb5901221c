"""The kinds of queue that come under the contract of `Queue`, and what the kernel's cannot do, in one place.

A test that takes `q` or `queues` runs for each kind in each form. `@can("leases")` leaves out the kind that
cannot; what that does instead is in `REFUSED` and `DIFFERENT`, and `test_queue_kinds.py` holds it to that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import isthmus
from forms import Form
from isthmus import posix_mq
from kernel_peers import fresh_name
from queues import KIB, drain, fill

SIZE = 8 * KIB
"""Bytes of the largest message of a kernel queue, unless root has raised `msgsize_max`."""
ROOM = 10
"""Most messages in one, unless root has raised `msg_max`."""

REFUSED: dict[str, list[Callable[[Any], object]]] = {
    "leases": [
        lambda q: q.lease(),
        lambda q: q.lease(0, view=True),
        lambda q: q.leases(),
        lambda q: q.max_deliveries,
    ],
    "views": [lambda q: q.get_view(), lambda q: q.get_view(0, writable=True), lambda q: q.views()],
    "reservations": [lambda q: q.reserve(10), lambda q: q.reserve((2, 3), "f4", timeout=0, priority=1)],
    "handshakes": [lambda q: q.put(b"x", until="received"), lambda q: q.put(b"x", 0, until="done")],
    "dead letters": [lambda q: q.dead],
    "shutdown": [lambda q: q.shutdown()],
}
"""Calls that are `Unsupported` on a kernel queue, by what they are for."""

REFUSED_OPTIONS: dict[str, Any] = {
    "max_deliveries": 3,
    "persistent": False,
    "ends_with_producers": True,
    "namespace": "/dev/shm",
}
"""Attributes of `Queue(…)` that are `Unsupported` there."""


def _large(queues: Queues) -> None:
    with queues.make(type=bytes) as q:
        assert q.message_max == SIZE
        q.put(bytes(SIZE))
        with pytest.raises(isthmus.TooLarge, match="msgsize_max") as caught:
            q.put(bytes(SIZE + 1))
        assert (caught.value.size, caught.value.limit) == (SIZE + 1, SIZE)
        assert q.get() == bytes(SIZE)


def _many(queues: Queues) -> None:
    with queues.make(type=bytes) as q:
        assert fill(q, 1) == q.maxsize == ROOM, "however small they are"
        assert q.fill == 1.0


def _levels(queues: Queues) -> None:
    with queues.make(type=bytes, priorities=2) as q:
        assert fill(q, 100, 1) == ROOM
        assert fill(q, 100, 0) == 0, "one room for all levels"
        q.get()
        assert fill(q, 100, 0) == 1


def _attributes(queues: Queues) -> None:
    with queues.make(type=int, priorities=2) as first:
        with queues.form.Queue(first.url) as second:
            assert (second.type, second.priorities) == (bytes, 32768), "the kernel knows neither"
            assert (second.maxsize, second.message_max) == (first.maxsize, first.message_max)
            second.put(b"\xc1", priority=7)
        with pytest.raises(isthmus.InvalidMessage):
            first.get()


def _anonymous(queues: Queues) -> None:
    with pytest.raises(ValueError, match="posix-mq:///NAME"):
        queues.form.Queue("posix-mq://")


def _stays(queues: Queues) -> None:
    with queues.make(type=bytes) as q:
        q.put(b"last")
    with queues.form.Queue.open(q.url, type=bytes) as again:
        assert again.get() == b"last", "without a warning: the kernel keeps it until unlink()"
        again.unlink()


DIFFERENT: dict[str, Callable[[Queues], None]] = {
    "messages over 8 KiB": _large,
    "more than ten messages": _many,
    "room for each level": _levels,
    "attributes": _attributes,
    "no name": _anonymous,
    "ending with its last user": _stays,
}
"""What a kernel queue has other limits or rules for, and what shows them."""


@dataclass(frozen=True)
class Kind:
    """A kind of queue."""

    name: str
    lacks: frozenset[str] = frozenset()

    def can(self, what: str) -> bool:
        """Whether it has something that is in the tables above."""
        if what not in {*REFUSED, *DIFFERENT}:
            raise KeyError(f"{what!r} is in none of the tables")
        return what not in self.lacks


SHARED = Kind("shared")
KERNEL = Kind("kernel", frozenset({*REFUSED, *DIFFERENT}))
KINDS = [SHARED, KERNEL]


def can(*what: str) -> pytest.MarkDecorator:
    """Runs a test for the kinds that can do all of this."""
    kinds = [kind for kind in KINDS if all(map(kind.can, what))]
    return pytest.mark.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


class Queues:
    """Makes queues of one kind, in one form."""

    def __init__(self, form: Form, kind: Kind) -> None:
        self.form = form
        self.kind = kind
        self._made: list[Any] = []
        self._names: list[str] = []

    def make(self, *, capacity: int | None = None, **attributes: Any) -> Any:
        """A queue that nobody else has, of at least some of the capacity asked for."""
        if self.kind is KERNEL:
            made = self.form.Queue(
                self.name(), capacity=capacity and min(capacity, ROOM * SIZE), **attributes
            )
        else:
            made = self.form.Queue(capacity=capacity, **attributes)
        self._made.append(made)
        return made

    def name(self) -> str:
        """What `Queue` takes to make one by a name, which is free."""
        if self.kind is SHARED:
            return "jobs"
        self._names.append(fresh_name())
        return f"posix-mq://{self._names[-1]}"

    def close(self) -> None:
        """Ends what was made and is open still."""
        for made in self._made:
            if not made.closed:
                drain(made)
                made.close()
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                posix_mq.unlink(name)


__all__ = ["DIFFERENT", "KERNEL", "KINDS", "REFUSED", "REFUSED_OPTIONS", "SHARED", "Kind", "Queues", "can"]
