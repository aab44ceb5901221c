"""``isthmus ls``: the objects of a namespace, as a table or as JSON."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

import isthmus
from isthmus.cli._show import EXTRA_HINT, counted, has_rich, is_terminal, printable, say, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

TITLES = ("NAME", "KIND", "SIZE", "DEPTH", "CAPACITY", "CREATED", "ATTACHED", "NOTE")
TO_THE_RIGHT = frozenset({"SIZE", "DEPTH", "CAPACITY"})
NEVER_CUT = frozenset({"NAME", "ATTACHED", "NOTE", "CONTENT", "USED BY"})
"""Columns whose text goes on in the next line where the terminal is too narrow."""


def run(options: argparse.Namespace) -> int:
    """List what is there; that nothing is there is no failure."""
    found = sorted(isthmus.objects(options.namespace), key=lambda one: one.name)
    if options.kind:
        found = [one for one in found if one.kind == options.kind]
    if options.json:
        import json

        print(json.dumps([as_dictionary(one) for one in found], indent=2))
    elif options.names:
        for one in found:
            print(one.name)
    elif not found:
        say(f"there is no {options.kind}" if options.kind else "the namespace is empty")
    else:
        print_table(TITLES, [cells(one) for one in found], [bool(one.problem) for one in found])
    return 0


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool]) -> None:
    """Print rows as the terminal or the pipe takes them; those `marked` in red."""
    if is_terminal(sys.stdout) and has_rich():
        _print_rich(titles, rows, marked)
        return
    if is_terminal(sys.stdout):
        say(EXTRA_HINT)
    for line in plain_table([titles, *rows]):
        print(line)


def as_dictionary(one: isthmus.ObjectInfo) -> dict[str, object]:
    """Return an object as JSON shows it: processes by name, the rest as `isthmus.objects()` has it."""
    shown = {**one._asdict(), "attached": [{"pid": pid, "command": command} for pid, command in one.attached]}
    if isinstance(one.value, float) and not math.isfinite(one.value):
        shown["value"] = str(one.value)  # JSON has no such numbers
    return shown


def cells(one: isthmus.ObjectInfo) -> tuple[str, ...]:
    """Return the texts of one row."""
    attached = [f"{pid} {command}".rstrip() for pid, command in one.attached]
    number = "" if one.value is None else f"= {one.value}"
    notes = [number, "persistent" * one.persistent, one.problem]
    return (
        printable(one.name),
        one.kind,
        size(one.size),
        "-" if one.depth is None else f"{one.depth:,}",
        "-" if one.capacity is None else size(one.capacity),
        when(one.created),
        printable(", ".join(attached) or "nobody"),
        printable("; ".join(note for note in notes if note)),
    )


def when(moment: float) -> str:
    """Return a time of today as a clock shows it, an earlier one with its date."""
    if moment <= 0:
        return "-"
    then = time.localtime(moment)
    return time.strftime("%H:%M:%S" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", then)


def plain_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the titles first, as lines with columns in line, for files and pipes."""
    titles = rows[0]
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(titles))]
    lines = []
    for row in rows:
        line = []
        for cell, width, title in zip(row, widths, titles, strict=True):
            padding = " " * (width - width_of(cell))
            line.append(padding + cell if title in TO_THE_RIGHT else cell + padding)
        lines.append("  ".join(line).rstrip())
    return lines


def width_of(text: str) -> int:
    """Return how many columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _print_rich(titles: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, caption=counted(len(rows), "object"), caption_justify="left")
    shown = [column for column, title in enumerate(titles) if title != "NOTE" or any(row[-1] for row in rows)]
    for column in shown:
        title = titles[column]
        table.add_column(
            title.lower(),
            justify="right" if title in TO_THE_RIGHT else "left",
            no_wrap=title not in NEVER_CUT,
            overflow="fold",
        )
    for row, mark in zip(rows, marked, strict=True):
        # Text, not str: brackets in a name are no markup.
        table.add_row(*(Text(row[column]) for column in shown), style="red" if mark else None)
    Console().print(table)
