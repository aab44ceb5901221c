"""What the frames demo says in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from isthmus.cli._show import counted, size

SHARES = (50, 90, 99)


@dataclass
class Sight:
    """What the viewer has seen."""

    width: int
    height: int
    frames: int = 0
    seconds: float = 0.0
    copies: int = 0
    waits: list[int] = field(default_factory=list)
    """Nanoseconds from the moment a frame was taken until its picture was in the viewer's hands."""
    faults: list[str] = field(default_factory=list)

    @property
    def frame_bytes(self) -> int:
        """Return the size of one frame."""
        return self.width * self.height * 3


def percentile(values: list[int], share: int) -> int:
    """Return the least value that at least `share` per cent of the sorted `values` do not exceed."""
    return values[max(0, -(-len(values) * share // 100) - 1)]


def latency(sight: Sight) -> dict[str, float]:
    """Return the percentiles in milliseconds; empty when nothing was seen."""
    if not sight.waits:
        return {}
    waits = sorted(sight.waits)
    found = {f"p{share}": percentile(waits, share) / 1e6 for share in SHARES}
    return found | {"max": waits[-1] / 1e6}


def rate(sight: Sight) -> float:
    """Return the frames a second."""
    return sight.frames / sight.seconds if sight.seconds > 0 else 0.0


def report(sight: Sight) -> list[str]:
    """Return the lines for people."""
    each = sight.frame_bytes
    lasted = "  ".join(f"{name} {value:.1f} ms" for name, value in latency(sight).items())
    if sight.copies:
        copies = [
            f"{sight.copies:,} frames and pictures did not lie in a queue's memory",
            "(messages of up to 4096 bytes never do)",
        ]
    else:
        copies = [
            "0: each frame was filled and read in the first queue's memory, each picture computed",
            "and read in the second's; what is said of them, some 20 bytes a frame, is copied",
        ]
    return [
        f"frames   {sight.frames:,} of {sight.width}×{sight.height} RGB, {size(each)} each",
        "         camera → [ frames ] → detector → [ pictures ] → viewer",
        f"rate     {rate(sight):.1f} frames/s, {size(each * rate(sight))}/s through each of the two queues",
        f"latency  {lasted or 'nothing came'}, from the camera to the viewer",
        f"copies   {copies[0]}",
        *[f"         {line}" for line in copies[1:]],
        "correct  " + ("yes, all came in order and intact" if not sight.faults else f"NO: {_faults(sight)}"),
    ]


def _faults(sight: Sight) -> str:
    return f"{counted(len(sight.faults), 'fault')}, the first is: {sight.faults[0]}"


def as_dictionary(sight: Sight) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "frames": sight.frames,
        "width": sight.width,
        "height": sight.height,
        "frame_bytes": sight.frame_bytes,
        "seconds": sight.seconds,
        "frames_per_second": rate(sight),
        "bytes_per_second": rate(sight) * sight.frame_bytes,
        "latency_ms": latency(sight),
        "copies": sight.copies,
        "correct": not sight.faults,
        "faults": sight.faults[:20],
    }
