"""``isthmus demo frames``: camera, detector and viewer pass on video frames without copying them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

import isthmus
from isthmus.cli._demo_ends import create, new_name, stop
from isthmus.cli._frames_report import Sight, as_dictionary, report
from isthmus.cli._processes import Children
from isthmus.cli._progress import View, view
from isthmus.cli._show import CommandError, say
from isthmus.cli._signals import Signals

if TYPE_CHECKING:
    import argparse

MODULE = "isthmus.cli._frames_roles"

FRAMES = 300
"""How many frames, where neither a number nor a time was asked for."""

IN_LINE = 3
"""Frames that fit into each queue. More would only wait longer."""


def run(options: argparse.Namespace) -> int:
    """Run the command; 0 only if every frame came, in order and intact."""
    if find_spec("numpy") is None:
        raise CommandError("the frames are arrays, and numpy is not installed: pip install 'isthmus[demo]'")
    with Signals() as signals, view(sys.stderr) as show:
        sight = _film(options, show, signals)
    print(json.dumps(as_dictionary(sight)) if options.json else "\n".join(report(sight)))
    for fault in sight.faults[1:5]:
        say(fault)
    return 1 if sight.faults else 0


def _film(options: argparse.Namespace, show: View, signals: Signals) -> Sight:
    from isthmus.cli._frames_ends import TYPES, Ends
    from isthmus.cli._frames_viewer import Viewer

    width, height = options.size
    frames = options.frames if options.frames or options.seconds else FRAMES
    name = new_name()
    sight = Sight(width, height)
    # Half of a queue's capacity is for small messages.
    capacity = {"frames": 2 * IN_LINE * (sight.frame_bytes + 8192), "records": 1 << 20}
    capacity |= {"pictures": capacity["frames"], "findings": capacity["records"]}
    with ExitStack() as stack:
        try:
            queues = {
                end: create(
                    stack, f"{name}-{end}", type=kind, capacity=capacity[end], namespace=options.namespace
                )
                for end, kind in TYPES.items()
            }
        except isthmus.NoSpaceError as error:
            raise CommandError(f"{error}; a smaller --size needs less") from None
        # Handles of its own: a queue's creator sees its memory under no name.
        ends = Ends(name, options.namespace, os.getpid())
        stack.callback(ends.close)
        children = stack.enter_context(Children(MODULE))
        stack.callback(stop, *queues.values())  # before the children are waited for
        stack.callback(signals.ignore)  # what ends us has begun; a second Ctrl+C must not leave it half done
        common = [name, options.namespace or "", str(os.getpid())]
        plan = [str(number) for number in (width, height, frames, options.seconds, options.rate)]
        children.start("the camera", ["camera", *common, *plan])
        children.start("the detector", ["detector", *common, *plan])
        show.start("frames", "frames")
        if frames:
            show.total(frames * sight.frame_bytes)
        Viewer(ends, children, sight, show).run()
        show.done()
        return sight
