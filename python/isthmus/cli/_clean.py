"""``isthmus clean``: remove the objects whose users are all gone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import isthmus
from isthmus.cli._show import counted, printable, say

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the names that were removed, or would be, one a line."""
    if options.dry_run:
        names = [
            one.name
            for one in isthmus.objects(options.namespace)
            if not (one.attached or one.persistent or one.problem)
        ]
    else:
        names = isthmus.clean(options.namespace)
    for name in names:
        print(printable(name))
    sys.stdout.flush()
    say(f"{counted(len(names), 'object')} {'would be ' if options.dry_run else ''}removed")
    return 0
