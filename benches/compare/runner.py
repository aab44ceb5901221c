"""Runs a case: everybody's slices in turn, round after round, on the same two cores."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import machine
from .cases import BEST, Case, Target
from .contenders import Contender, Sample, Setting
from .stats import Ratio, median, paired_ratio, quantile

SCREENING = 4  # rounds in which everybody takes part; then only those who matter to the targets
QUIET = 0.05  # the share of the CPU that others may use without being mentioned
FINALISTS = 2  # peers that go on where the base of a target is the best peer

Progress = Callable[[str], None]


@dataclass
class Entry:
    """A contender and what came of it."""

    contender: Contender
    samples: dict[int, Sample] = field(default_factory=dict)
    absent: str | None = None

    @property
    def values(self) -> dict[int, float]:
        return {i: sample.value for i, sample in self.samples.items()}

    @property
    def median(self) -> float:
        return median(list(self.values.values()))


def run_case(case: Case, setting: Setting, rounds: int, progress: Progress) -> dict[str, Any]:
    """The case's result as plain data, ready for JSON."""
    entries = {c.key: Entry(c, absent=c.absent()) for c in case.contenders}
    rounds = min(rounds, case.rounds or rounds) if rounds < 20 else case.rounds or rounds
    others = machine.taken_by_others()
    if others > QUIET:
        progress(f"others use {others:.0%} of the CPU")
    chosen = set(entries)
    try:
        for entry in entries.values():
            if entry.absent is None:
                progress(f"starting {entry.contender.title}")
                attempt(entry, lambda c: c.start(setting))
        for number in range(rounds):
            if number == SCREENING:
                chosen = screen(case, entries)
            progress(f"round {number + 1} of {rounds}")
            for entry in in_turn(list(entries.values()), number):
                if entry.absent is None and entry.contender.key in chosen:
                    sample = attempt(entry, lambda c: c.slice(setting.seconds))
                    if sample is not None:
                        entry.samples[number] = sample
    finally:
        for entry in entries.values():
            entry.contender.stop()
    return describe(case, entries, rounds) | {"others": round(others, 3)}


def attempt(entry: Entry, act: Callable[[Contender], Any]) -> Any:
    """A contender that fails drops out; the others go on."""
    try:
        return act(entry.contender)
    except Exception as error:
        # What a table says; where it failed inside is for who runs it, and names their folders.
        print(f"{entry.contender.key}: {error}", file=sys.stderr)
        entry.absent = f"failed: {str(error).strip().splitlines()[-1]}"
        entry.contender.stop()
        return None


def in_turn(entries: list[Entry], number: int) -> list[Entry]:
    """Another one starts each time, every second round runs backwards: nobody always follows one other."""
    shift = number // 2 % len(entries)
    turned = entries[shift:] + entries[:shift]
    return turned[::-1] if number % 2 else turned


def is_peer(entry: Entry) -> bool:
    return entry.contender.peer not in ("isthmus", "control") and bool(entry.samples)


def going_on(case: Case, entries: dict[str, Entry]) -> set[str]:
    keys = {case.subject, *case.keep}
    keys |= {key for target in case.targets for key in (target.subject, target.base)}
    keys |= {key for key, entry in entries.items() if entry.contender.peer in ("control", "isthmus")}
    if any(target.base == BEST for target in case.targets):
        peers = sorted((e for e in entries.values() if is_peer(e)), key=lambda e: e.median)
        keys |= {entry.contender.key for entry in peers[:FINALISTS]}
    return keys


def screen(case: Case, entries: dict[str, Entry]) -> set[str]:
    """Who goes on; the processes of the others end."""
    keys = going_on(case, entries)
    for key, entry in entries.items():
        if key not in keys and entry.absent is None:
            entry.contender.stop()
    return keys


def describe(case: Case, entries: dict[str, Entry], rounds: int) -> dict[str, Any]:
    return {
        "key": case.key,
        "title": case.title,
        "unit": case.unit,
        "size": case.size,
        "subject": case.subject,
        "latency": case.latency,
        "rounds": rounds,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "meaning": case.meaning,
        "limits": case.limits,
        "contenders": [describe_entry(entry) for entry in entries.values()],
        "targets": [judge(case, target, entries) for target in case.targets],
    }


def describe_entry(entry: Entry) -> dict[str, Any]:
    contender, samples = entry.contender, list(entry.samples.values())
    values = [sample.value for sample in samples]
    of = getattr(contender, "of", None)
    described: dict[str, Any] = {
        "key": contender.key,
        "title": contender.title,
        "peer": contender.peer,
        "version": of.version() if of else None,
        "note": "; ".join(filter(None, (of.note if of else "", contender.chosen))),
        "absent": entry.absent,
        "slices": len(samples),
    }
    if samples:
        described |= {
            "median_ns": round(median(values), 2),
            "low_ns": round(quantile(values, 0.1), 2),
            "high_ns": round(quantile(values, 0.9), 2),
            "values_ns": {str(i): round(value, 2) for i, value in entry.values.items()},
        }
        p99 = [sample.p99 for sample in samples if sample.p99 is not None]
        alone = [sample.alone for sample in samples if sample.alone is not None]
        if p99 and alone:
            described |= {"p99_ns": round(median(p99), 2), "alone_ns": round(median(alone), 2)}
        for name in samples[0].extra:
            described[name] = round(median([sample.extra[name] for sample in samples]), 4)
    return described


def judge(case: Case, target: Target, entries: dict[str, Entry]) -> dict[str, Any]:
    """The target with the measured ratio, in the target's own direction."""
    base = target.base
    if base == BEST:
        most = max((len(entry.samples) for entry in entries.values()), default=0)
        peers = [entry for entry in entries.values() if is_peer(entry) and len(entry.samples) == most]
        base = min(peers, key=lambda e: e.median).contender.key if peers else ""
    judged: dict[str, Any] = {"text": target.text(), "subject": target.subject, "base": base}
    judged["best"] = target.base == BEST
    subject_entry, base_entry = entries.get(target.subject), entries.get(base)
    if subject_entry is None or base_entry is None or not subject_entry.samples or not base_entry.samples:
        return judged | {"met": None}
    mine, theirs = subject_entry.values, base_entry.values
    if target.at_most is not None:
        ratio: Ratio = paired_ratio(mine, theirs)
        met = ratio.median <= target.at_most
    else:
        ratio = paired_ratio(theirs, mine)
        met = target.at_least is not None and ratio.median >= target.at_least
    return judged | {
        "ratio": round(ratio.median, 4),
        "low": round(ratio.low, 4),
        "high": round(ratio.high, 4),
        "pairs": ratio.pairs,
        "speed": target.at_least is not None,
        "met": met,
    }
