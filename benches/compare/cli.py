"""The command line."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import machine
from .cases import BUILDERS, Choice
from .contenders import Setting
from .peers import LOCKS, PEERS, Place
from .report import markdown, plot, store
from .runner import QUIET, run_case

ROOT = Path(__file__).resolve().parents[2]
QUICK_PEERS = ("mp-queue", "faster-fifo", "iceoryx2", "cloudtoid-block", "cloudtoid-poll")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches.compare", description="Isthmus beside its peers."
    )
    parser.add_argument(
        "--quick", action="store_true", help="a rough look in about two minutes; writes no docs"
    )
    parser.add_argument("--only", action="append", metavar="CASE", help="only this case (may be repeated)")
    parser.add_argument("--peers", metavar="KEYS", help="only these peers, separated by commas")
    parser.add_argument("--rounds", type=int, help="pairs of each case (default 24; quick: 6)")
    parser.add_argument("--seconds", type=float, help="length of a slice (default 0.2; quick: 0.1)")
    parser.add_argument("--cpus", metavar="A,B", help="the two cores (default: the first two allowed)")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="where benchmarks.md and assets/ are"
    )
    parser.add_argument("--json", type=Path, help="write the raw figures here as well")
    parser.add_argument("--no-write", action="store_true", help="change nothing in the docs")
    parser.add_argument("--write", action="store_true", help="write the docs even after a quick run")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: draw the stored figures again"
    )
    parser.add_argument(
        "--list", action="store_true", help="show cases and peers, and which peers are absent"
    )
    parser.add_argument("--malloc-defaults", action="store_true", help="let glibc give freed memory back")
    return parser.parse_args(argv)


def show_list() -> None:
    print("cases:", *BUILDERS, sep="\n  ")
    print("peers:")
    for peer in (*PEERS, *LOCKS):
        state = f"absent: {peer.absent()}" if peer.absent() else peer.version() or "standard library"
        print(f"  {peer.key:16} {peer.title:28} {state}")


class Progress:
    """One line that is rewritten on a terminal; on anything else a line a case."""

    def __init__(self, total: int) -> None:
        self.total, self.number, self.start = total, 0, time.monotonic()
        self.live = sys.stderr.isatty()

    def begin(self, title: str) -> None:
        self.number += 1
        self.title = title
        elapsed = time.monotonic() - self.start
        if not self.live:
            print(f"[{self.number}/{self.total}] {elapsed:4.0f} s  {title}", file=sys.stderr, flush=True)

    def __call__(self, text: str) -> None:
        if self.live:
            elapsed = time.monotonic() - self.start
            line = f"[{self.number}/{self.total}] {elapsed:4.0f} s  {self.title}: {text}"
            print(
                f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def end(self, case: dict[str, Any]) -> None:
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr)
        if case["others"] > QUIET:
            print(f"    others use {case['others']:.0%} of the CPU: rough", file=sys.stderr)
        for entry in case["contenders"]:
            if entry["absent"]:
                print(f"    {entry['title']}: {entry['absent']}", file=sys.stderr)
        for row in markdown.target_rows(case):
            print(f"  {row}", flush=True)


def measure(options: argparse.Namespace, setting: Setting, rounds: int) -> dict[str, Any]:
    keys = [key for key in BUILDERS if not options.only or key in options.only]
    names = tuple(options.peers.split(",")) if options.peers else QUICK_PEERS if options.quick else None
    choice = Choice(names) if names else Choice()
    progress, results = Progress(len(keys)), {}
    for key in keys:
        case = BUILDERS[key](choice)
        progress.begin(case.title)
        results[key] = run_case(case, setting, rounds, progress)
        progress.end(results[key])
    return {
        "machine": machine.describe(setting.cpus),
        "seconds": setting.seconds,
        "keep_memory": setting.keep_memory,
        "cases": results,
    }


def pair_of_cpus(text: str | None) -> tuple[int, int]:
    cpus = [int(part) for part in text.split(",")] if text else sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("two cores are needed; this process may use only one")
    return cpus[0], cpus[1]


def publish(options: argparse.Namespace, results: dict[str, Any]) -> None:
    image = options.docs / "assets" / "benchmarks.svg"
    drawn = plot.draw(results, image)
    if not drawn:
        print("matplotlib is not installed: no plot", file=sys.stderr)
    page = options.docs / "benchmarks.md"
    markdown.write(page, markdown.render(results, "assets/benchmarks.svg" if drawn else None))
    print(f"written: {page}" + (f", {image}" if drawn else ""), file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.list:
        show_list()
        return 0
    unknown = set(options.only or ()) - set(BUILDERS)
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(BUILDERS)}")
    stored = options.docs / "assets" / "benchmarks.json"
    if options.render:
        publish(options, store.load(stored))
        return 0
    cpus = pair_of_cpus(options.cpus)
    seconds = options.seconds or (0.1 if options.quick else 0.2)
    rounds = options.rounds or (6 if options.quick else 24)
    with tempfile.TemporaryDirectory(prefix="isthmus-benches-", dir="/dev/shm") as directory:
        setting = Setting(
            Place(Path(directory), f"bench-{os.getpid()}"), cpus, seconds, not options.malloc_defaults
        )
        results = measure(options, setting, rounds)
    if options.json:
        store.save(options.json, {"version": store.VERSION} | results)
    if options.write or not (options.quick or options.no_write):
        merged = store.merge(store.load(stored), results, list(BUILDERS))
        store.save(stored, merged)
        publish(options, merged)
    missed = [t for case in results["cases"].values() for t in case["targets"] if t["met"] is not True]
    print(f"{len(missed)} targets missed or not measured" if missed else "every target met", file=sys.stderr)
    return 0
