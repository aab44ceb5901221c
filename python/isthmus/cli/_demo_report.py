"""What the demo says when it has counted both ways."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.cli._show import counted, printable, size
from isthmus.cli._wordcount import files_under


@dataclass
class Outcome:
    """What one way of counting found."""

    counts: Counter[str] = field(default_factory=Counter)
    files: int = 0
    bytes: int = 0
    skipped: dict[str, int] = field(default_factory=lambda: {"binary": 0, "unbroken": 0, "unreadable": 0})
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    messages: int = 0
    deepest: int = 0
    asked_to_kill: int = 0
    killed: list[int] = field(default_factory=list)
    redelivered: int = 0
    repeats: int = 0

    def same_as(self, other: Outcome) -> bool:
        """Tell whether both read the same files and found the same words as often."""
        return (self.files, self.bytes, self.skipped) == (other.files, other.bytes, other.skipped) and (
            self.counts == other.counts
        )


def report(path: str, workers: int, together: Outcome, alone: Outcome) -> list[str]:
    """Return the lines for people."""
    skipped = ", ".join(f"{number:,} {reason}" for reason, number in together.skipped.items() if number)
    frequent = ", ".join(
        f"{printable(shortened(word))} {times:,}" for word, times in together.counts.most_common(5)
    )
    total = counted(together.counts.total(), "word")
    roles = f"1 reader, {counted(workers, 'worker')}, 1 collector"
    rates = f"{counted(together.messages, 'message')}, "
    rates += f"{per_second(together.messages, together.seconds):,.0f} messages/s"
    lines = [
        f"counted  {printable(path)}",
        f"files    {counted(together.files, 'text file')}, {size(together.bytes)}"
        + (f"; skipped: {skipped}" if skipped else ""),
        f"words    {total}, {len(together.counts):,} different",
        *[f"         most frequent: {frequent}"] * bool(frequent),
        f"queues   {roles}: {together.seconds:.2f} s, {speed(together)}",
        f"         {rates}, at most {together.deepest:,} waiting",
        f"alone    one process without queues: {alone.seconds:.2f} s, {speed(alone)}",
        f"agree    {'yes, both counts are the same' if together.same_as(alone) else 'NO'}",
    ]
    lines[2:2] = [f"         {printable(note)}" for note in together.notes]
    if together.asked_to_kill:
        lines[-2:-2] = _deaths(together, alone)
    return lines


def _deaths(together: Outcome, alone: Outcome) -> list[str]:
    killed, asked = len(together.killed), together.asked_to_kill
    of = "" if killed == asked else f" of {asked:,}"
    why = "" if killed == asked else "; then everything was counted"
    found = f"{counted(together.redelivered, 'piece')} in hand came back and went to others, "
    found += (
        f"{counted(together.repeats, 'result')} came twice and {'was' if together.repeats == 1 else 'were'}"
    )
    lost = "nothing was lost" if together.same_as(alone) else "the counts differ"
    workers = "worker" if asked == 1 else "workers"
    return [
        f"killed   {killed:,}{of} {workers} by SIGKILL, and others started in their place{why}",
        f"         {found} dropped: {lost}",
    ]


def as_dictionary(path: str, workers: int, together: Outcome, alone: Outcome) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "path": path,
        "agree": together.same_as(alone),
        "files": together.files,
        "bytes": together.bytes,
        "skipped": together.skipped,
        "notes": together.notes,
        "words": together.counts.total(),
        "different_words": len(together.counts),
        "most_frequent": together.counts.most_common(10),
        "workers": workers,
        "seconds": together.seconds,
        "messages": together.messages,
        "messages_per_second": per_second(together.messages, together.seconds),
        "bytes_per_second": per_second(together.bytes, together.seconds),
        "deepest": together.deepest,
        "kill": {
            "asked": together.asked_to_kill,
            "killed": together.killed,
            "redelivered": together.redelivered,
            "repeats": together.repeats,
        },
        "alone": {
            "files": alone.files,
            "bytes": alone.bytes,
            "skipped": alone.skipped,
            "words": alone.counts.total(),
            "different_words": len(alone.counts),
            "seconds": alone.seconds,
        },
    }


def differences(together: Outcome, alone: Outcome, changed: list[str]) -> list[str]:
    """Say in which way the two counts differ, and whether the input is the likely reason."""
    lines = [
        f"{what}: {one} with queues, {other} alone"
        for what, one, other in (
            ("text files", together.files, alone.files),
            ("bytes", together.bytes, alone.bytes),
            ("skipped", together.skipped, alone.skipped),
            ("words", together.counts.total(), alone.counts.total()),
        )
        if one != other
    ]
    words = (word for word in together.counts | alone.counts if together.counts[word] != alone.counts[word])
    lines += [
        f"word {shortened(word)!r}: {together.counts[word]} with queues, {alone.counts[word]} alone"
        for word, _ in zip(words, range(5), strict=False)
    ]
    if changed:
        lines.append(f"{counted(len(changed), 'file')} changed meanwhile, the first is {changed[0]}")
    return lines


def changed_since(moment: int, path: str, skip: frozenset[str]) -> list[str]:
    """Return the files that changed after `moment` (nanoseconds of the wall clock)."""
    changed = []
    for name, _ in files_under(path, skip):
        try:
            if Path(name).stat().st_ctime_ns > moment:
                changed.append(name)
        except OSError:
            continue
    return changed


def shortened(word: str) -> str:
    """Return a word as people want to see it; the demo counts words of up to 256 KiB."""
    return word if len(word) <= 40 else f"{word[:37]}..."


def speed(outcome: Outcome) -> str:
    """Return the text counted in a second, with its unit."""
    return f"{size(per_second(outcome.bytes, outcome.seconds))}/s"


def per_second(number: float, seconds: float) -> float:
    """Return a rate, 0 when nothing was measured."""
    return number / seconds if seconds > 0 else 0.0
