"""``isthmus doctor``: what keeps programs from going on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import isthmus
from isthmus.cli._show import counted, printable, say

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print a sentence for each finding; 1 where one of them is a deadlock."""
    diagnosis = isthmus.doctor(hold_limit=options.hold_limit, namespace=options.namespace)
    if options.json:
        import json

        for finding in diagnosis.findings:
            print(json.dumps(finding._asdict()))
    else:
        for finding in diagnosis.findings:
            print(printable(finding.text))
    sys.stdout.flush()
    say(
        f"{counted(diagnosis.locks, 'lock')}, {counted(diagnosis.waiting, 'wait')}, "
        f"{counted(len(diagnosis.findings), 'finding')}"
    )
    return 1 if diagnosis.deadlocks else 0
