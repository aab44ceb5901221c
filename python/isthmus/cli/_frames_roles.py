"""The camera and the detector of the frames demo: programs of their own, which meet at the queues' names."""

from __future__ import annotations

import random
import signal
import sys
import time
from typing import NamedTuple

import numpy as np

import isthmus
from isthmus.cli import _frames_picture as picture
from isthmus.cli._demo_ends import OrphanedError, check_parent, each
from isthmus.cli._frames_ends import Ends, Finding, Record


class Plan(NamedTuple):
    """What is to be filmed."""

    width: int
    height: int
    frames: int
    """How many, 0 for no limit."""
    seconds: float
    """How long, 0 for no limit."""
    rate: float
    """How many a second, 0 for as fast as it goes."""


def film(ends: Ends, plan: Plan) -> None:
    """Be the camera: fill frames where they will be read."""
    place = picture.Place(f"{ends.name}-frames")
    shape = (plan.height, plan.width, 3)
    still = picture.scenery(plan.height, plan.width)
    side = picture.side_of(plan.height, plan.width)
    x, y = (plan.width - side) // 2, (plan.height - side) // 2
    while not ends.frames.stats().consumers_waiting:  # or the first frames would wait for Python to start
        check_parent(ends.parent)
        time.sleep(0.001)
    began = time.monotonic()
    number = 0
    while not number or not (0 < plan.frames <= number or 0 < plan.seconds <= time.monotonic() - began):
        if plan.rate:
            time.sleep(max(0.0, began + number / plan.rate - time.monotonic()))
        with ends.wait(ends.frames.reserve, shape, np.uint8) as frame:
            moment = time.monotonic_ns()
            x = min(max(x + random.randint(-9, 9), 0), plan.width - side)  # noqa: S311  # a walk, no secret
            y = min(max(y + random.randint(-9, 9), 1), plan.height - side)  # noqa: S311
            picture.paint(frame, still, number, moment, x, y)
            # Before the frame goes: who has the frame finds its record.
            ends.wait(ends.records.put, Record(number, moment, x, y, place.has(frame)))
        del frame
        number += 1
    ends.frames.shutdown()
    ends.records.shutdown()


def detect(ends: Ends) -> None:
    """Be the detector: find the square in each frame, and compute a picture where the viewer will read it."""
    frames, pictures = (picture.Place(f"{ends.name}-{end}") for end in ("frames", "pictures"))
    for frame in each(ends.parent, ends.frames.get_view):
        with ends.wait(ends.pictures.reserve, frame.shape, frame.dtype) as seen:
            x, y = picture.find(frame)
            picture.develop(frame, seen, x, y)
            number, _ = picture.read_stamp(frame)
            copies = (not frames.has(frame)) + (not pictures.has(seen))
            ends.wait(ends.findings.put, Finding(number, x, y, copies))
        # Not to be held while waiting for the next: the memory is the camera's again.
        del frame, seen
    ends.pictures.shutdown()
    ends.findings.shutdown()


def main(arguments: list[str]) -> int:
    """Run one role: ``camera|detector name namespace parent width height frames seconds rate``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    role, name, namespace, parent, *numbers = arguments
    width, height, frames = (int(text) for text in numbers[:3])
    seconds, rate = (float(text) for text in numbers[3:])
    try:
        ends = Ends(name, namespace or None, int(parent))
        try:
            if role == "camera":
                film(ends, Plan(width, height, frames, seconds, rate))
            else:
                detect(ends)
        finally:
            ends.close()
    except (isthmus.ShutDown, OrphanedError):
        pass  # the viewer has given up, or is gone: so does this process
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
