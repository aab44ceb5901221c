"""The viewer of the frames demo: it looks at the pictures, and compares them with what the others say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli._frames_picture import Check, Frame, Place, read_stamp
from isthmus.cli._show import CommandError, counted

if TYPE_CHECKING:
    from isthmus.cli._frames_ends import Ends, Finding, Record
    from isthmus.cli._frames_report import Sight
    from isthmus.cli._processes import Children
    from isthmus.cli._progress import View

TO_END = 10.0
"""Seconds that the processes have for ending when there is nothing to do any more."""


class Viewer:
    """Takes the pictures, each with the camera's record and the detector's finding about it."""

    def __init__(self, ends: Ends, children: Children, sight: Sight, show: View) -> None:
        self._ends = ends
        self._children = children
        self._sight = sight
        self._show = show
        self._place = Place(f"{ends.name}-pictures")
        self._check = Check(sight.height, sight.width)
        self._due = 0
        self._began: int | None = None

    def run(self) -> None:
        """Look at pictures until the detector says that there are no more."""
        pictures, sight = self._ends.pictures, self._sight
        while True:
            failure = self._children.failure()
            ended = not self._children.running()  # asked before taking: what they put is in the queue by now
            try:
                picture = pictures.get_view(0 if failure or ended else 0.1)
            except isthmus.ShutDown:
                break
            except isthmus.Empty:
                if failure or ended:
                    raise CommandError(
                        failure or "every process has ended, but the film has no end"
                    ) from None
                continue
            self._look(picture, time.monotonic_ns())
            del picture  # not to be held while waiting for the next: the memory is the detector's again
            self._show.update(sight.frames * sight.frame_bytes, sight.frames, pictures.qsize())
        if lost := self._ends.records.qsize():
            sight.faults.append(f"{counted(lost, 'frame')} at the end never came")
        if not self._children.wait(TO_END):
            raise CommandError("every frame was seen, but a process of the demo does not end")
        if failure := self._children.failure():
            raise CommandError(failure)

    def _look(self, picture: Frame, now: int) -> None:
        sight = self._sight
        number, moment = read_stamp(picture)
        sight.frames += 1
        sight.copies += not self._place.has(picture)
        if self._began is None:
            self._began = moment
        sight.seconds = (now - self._began) / 1e9
        sight.waits.append(now - moment)
        due, self._due = self._due, number + 1
        if number != due:
            sight.faults.append(f"frame {number} came where {due} was due")
        record: Record | None = _about(number, self._ends.records)
        finding: Finding | None = _about(number, self._ends.findings)
        if record is None or finding is None:
            sight.faults.append(f"frame {number} came without its {'finding' if record else 'record'}")
            return
        sight.copies += (not record.in_place) + finding.copies
        if moment != record.moment:
            sight.faults.append(f"frame {number} carries another moment than the camera's record")
        if (finding.x, finding.y) != (record.x, record.y):
            sight.faults.append(
                f"frame {number}: the square was drawn at ({record.x}, {record.y}) and found at "
                f"({finding.x}, {finding.y})"
            )
        elif not self._check.is_intact(picture, number, record.x, record.y):
            sight.faults.append(f"frame {number} is not intact")


def _about(number: int, said: isthmus.Queue[Any]) -> Any:
    """Take what was said of a picture, None for nothing; it was put before the picture, so it is here."""
    while True:
        try:
            message = said.get(0)
        except (isthmus.Empty, isthmus.ShutDown):
            return None
        if message.number >= number:
            return message if message.number == number else None
