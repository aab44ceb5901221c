"""What joins the processes of the frames demo: two queues of arrays, and two of small messages about them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

import isthmus
from isthmus.cli._demo_ends import patiently


@dataclass(frozen=True, slots=True)
class Record:
    """What the camera says of a frame, to the viewer alone."""

    number: int
    moment: int
    """When it was taken: nanoseconds of the monotonic clock, which all processes of a machine share."""
    x: int
    y: int
    """Where the square was drawn."""
    in_place: bool
    """Whether the frame lay in the queue's memory when it was filled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the detector says of a frame."""

    number: int
    x: int
    y: int
    """Where the square was found."""
    copies: int
    """Of the frame that it looked at and the picture that it made: how many lay outside of the queues."""


TYPES: dict[str, Any] = {"frames": np.ndarray, "records": Record, "pictures": np.ndarray, "findings": Finding}
"""The queues: how the name of each ends, and the type of its messages."""


class Ends:
    """The queues as one process sees them."""

    def __init__(self, name: str, namespace: str | None, parent: int) -> None:
        self.name = name
        self.parent = parent
        with ExitStack() as stack:
            self.frames, self.records, self.pictures, self.findings = (
                stack.enter_context(isthmus.Queue.open(f"{name}-{end}", type=kind, namespace=namespace))
                for end, kind in TYPES.items()
            )
            self.close = stack.pop_all().close

    def wait(self, call: Any, *arguments: Any) -> Any:
        """Call what may have to wait."""
        return patiently(self.parent, call, *arguments)
