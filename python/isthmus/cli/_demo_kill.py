"""``isthmus demo --kill N``: who kills the workers, and starts others in their place."""

from __future__ import annotations

import time
from random import SystemRandom
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.cli._processes import Children

LAST = 0.9
"""The share of the way behind which nobody is killed: there has to be something left to be killed at."""

CYCLE = 0.01
"""Seconds: about what a worker needs for a piece. A kill comes somewhere in it, not just behind a result."""


class Killer:
    """Kills `wanted` workers on the way, each at a random part of it.

    A moment is a share of the work, not of a time that nobody knows. Who is killed has sent a result before,
    and there are never more dead than pieces counted: so the work comes to its end, however large N is.
    """

    def __init__(self, wanted: int, children: Children, replace: Callable[[], None]) -> None:
        self.wanted = wanted
        self.pids: list[int] = []
        """Whom it killed."""
        self._random = SystemRandom()
        self._moments = sorted((LAST * self._random.random() for _ in range(wanted)), reverse=True)
        self._children = children
        self._replace = replace
        self._at_work: set[int] = set()

    def saw(self, pid: int) -> None:
        """Take note of a worker that has sent a result."""
        if self._moments and pid not in self.pids:
            self._at_work.add(pid)

    def strike(self, way: float, counted: int) -> None:
        """Kill as many as are due: `way` is the share of the work that is done, `counted` its pieces."""
        while self._moments and self._moments[-1] <= way and self._at_work and len(self.pids) < counted:
            time.sleep(CYCLE * self._random.random())
            pid = self._random.choice(sorted(self._at_work))
            self._at_work.remove(pid)
            if self._children.kill(pid):
                self._moments.pop()
                self.pids.append(pid)
                self._replace()
