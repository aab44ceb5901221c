"""What it costs to start."""

from __future__ import annotations

import sys

from benches.compare.contenders import Command
from benches.compare.peers import ISTHMUS

from .base import Case, Choice, Target, case


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


@case("import")
def importing(choice: Choice) -> Case:
    return Case(
        "import",
        "a process that imports it",
        "ms",
        [
            Command("isthmus", "import isthmus", "isthmus", python("import isthmus"), ISTHMUS.absent),
            Command(
                "mp",
                "import multiprocessing.queues",
                "mp",
                python("import multiprocessing.queues"),
                lambda: None,
            ),
            Command("bare", "pass (the bare interpreter)", "control", python("pass"), lambda: None),
        ],
        [Target("isthmus", "mp", at_most=1.5)],
        "A whole process: the interpreter starts, imports, and ends. The control is an interpreter that "
        "does nothing.",
        "Files are in the page cache and compiled; the first import after a boot or an installation "
        "reads a disk.",
        keep={"mp", "bare"},
        rounds=40,
    )
