"""The figures as one picture: a panel for each pattern, everybody's bar on a logarithmic axis."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .figures import amount

OURS, THEIRS, FLOOR = "#1b7f5c", "#9aa5b1", "#d9b44a"
PANELS = (
    ("round-trip", "64 B round trip, µs (less is better)"),
    ("stream-64", "64 B stream, million a second"),
    ("stream-1k", "1 KiB stream, million a second"),
    ("stream-64k", "64 KiB stream, GB/s"),
    ("stream-1m", "1 MiB stream, GB/s"),
    ("stream-6m", "6 MiB stream, GB/s"),
    ("mutex", "lock, uncontended, ns (less is better)"),
    ("mutex-contended", "lock, two contending, M/s"),
    ("aio", "64 B round trip between event loops, µs (less is better)"),
    ("locks", "taken and given back, uncontended, ns (less is better)"),
    ("pipe-small", "64 B stream through a pipe, million a second"),
    ("mq", "kernel queue, in and out, ns (less is better)"),
    ("socket-unix", "64 B round trip, Unix socket, µs (less is better)"),
    ("socket-stream-unix", "64 B stream, Unix socket, million a second"),
)
FLAT_PANELS = (("attached", "put and get, ns, by processes attached"), ("depth", "put and get, ns, by depth"))


def logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")


def bars(axes: Any, case: dict[str, Any], title: str) -> None:
    entries = [
        e for e in case["contenders"] if e.get("slices") and (e["peer"] != "control" or case["unit"] != "M/s")
    ]
    entries.sort(key=lambda e: e["median_ns"], reverse=True)
    values = [amount(e["median_ns"], case["unit"], case["size"]) for e in entries]
    colours = [{"isthmus": OURS, "control": FLOOR}.get(e["peer"], THEIRS) for e in entries]
    axes.barh([e["title"] for e in entries], values, color=colours)
    logarithmic(axes)
    axes.set_title(title, loc="left", fontsize=10)
    for i, value in enumerate(values):
        axes.annotate(f" {value:.3g}", (value, i), va="center", fontsize=7)
    axes.margins(x=0.15)


def line(axes: Any, case: dict[str, Any], title: str) -> None:
    entries = [e for e in case["contenders"] if e.get("slices") and e["peer"] == "isthmus"]
    x = [int(e["key"].rpartition("-")[2]) for e in entries]
    y = [e["median_ns"] for e in entries]
    axes.plot(x, y, marker="o", color=OURS)
    axes.fill_between(
        x, [e["low_ns"] for e in entries], [e["high_ns"] for e in entries], color=OURS, alpha=0.15
    )
    logarithmic(axes)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=10)


def draw(results: dict[str, Any], path: Path) -> bool:
    """False when matplotlib is not there."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return False
    matplotlib.rcParams |= {"svg.hashsalt": "isthmus", "svg.fonttype": "none", "font.size": 8}
    cases = results["cases"]
    panels = [(bars, cases[key], title) for key, title in PANELS if measured(cases, key)]
    panels += [(line, cases[key], title) for key, title in FLAT_PANELS if measured(cases, key, "isthmus")]
    if not panels:
        return False
    rows = (len(panels) + 1) // 2
    figure, grid = pyplot.subplots(rows, 2, figsize=(12, 3.2 * rows), squeeze=False, layout="constrained")
    spots = list(grid.flat)
    for axes, (plot, case, title) in zip(spots, panels, strict=False):
        plot(axes, case, title)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in spots[len(panels) :]:
        axes.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def measured(cases: dict[str, Any], key: str, peer: str | None = None) -> bool:
    entries = cases.get(key, {}).get("contenders", [])
    return any(entry.get("slices") and peer in (None, entry["peer"]) for entry in entries)
