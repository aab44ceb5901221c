"""Every case, in the order of the tables."""

from __future__ import annotations

from . import imports, in_place, leases, locks, loops, mutex, objects, round_trip, scaling, stream
from .base import BEST, Case, Choice, Target
from .base import BUILDERS as REGISTERED

ORDER = (
    "round-trip",
    "round-trip-paused",
    "stream-64",
    "stream-1k",
    "stream-64k",
    "stream-1m",
    "stream-6m",
    "view-64k",
    "view-1m",
    "view-6m",
    "frames",
    "dict",
    "struct",
    "lease",
    "priorities",
    "mutex",
    "mutex-contended",
    "crowd",
    "attached",
    "depth",
    "aio",
    "aio-paused",
    "locks",
    "contended",
    "condition",
    "condition-paused",
    "barrier",
    "barrier-paused",
    "import",
)
BUILDERS = {key: REGISTERED[key] for key in ORDER}

__all__ = [
    "BEST",
    "BUILDERS",
    "Case",
    "Choice",
    "Target",
    "imports",
    "in_place",
    "leases",
    "locks",
    "loops",
    "mutex",
    "objects",
    "round_trip",
    "scaling",
    "stream",
]
