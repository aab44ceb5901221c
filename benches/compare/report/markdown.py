"""The tables of docs/benchmarks.md, between its markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import by_key, number, shown, spread

BEGIN = "<!-- benches.compare: begin (written by `python -m benches.compare`; edits are lost) -->"
END = "<!-- benches.compare: end -->"
HEADING = "# Benchmarks\n"


def verdict(target: dict[str, Any]) -> str:
    return {True: "met", False: "**missed**", None: "not measured"}[target["met"]]


def control_of(case: dict[str, Any]) -> str:
    entries = [e for e in case["contenders"] if e["peer"] == "control" and e.get("slices")]
    return (
        "<br>".join(f"{e['title'].removeprefix('C: ')} {shown(e['median_ns'], case)}" for e in entries) or "–"
    )


def target_rows(case: dict[str, Any]) -> list[str]:
    rows, entries = [], by_key(case)
    for target in case["targets"]:
        subject, base = entries.get(target["subject"]), entries.get(target["base"])
        what = case["title"]
        if target["subject"].endswith("-batch"):
            what += ", in batches"
        elif subject and target["subject"] != case["subject"]:
            what += f": {subject['title']}"
        mine = shown(subject["median_ns"], case) if subject and subject.get("slices") else "–"
        name = base["title"] if base else target["base"] or "the best peer"
        if target.get("best") and base:
            name += " (best peer)"
        theirs = f"{name}: {shown(base['median_ns'], case)}" if base and base.get("slices") else name
        ratio, pairs = "–", "–"
        if target["met"] is not None:
            ratio = f"{number(target['ratio'])} ({number(target['low'])}–{number(target['high'])})"
            pairs = str(target["pairs"])
        rows.append(
            f"| {what} | {mine} | {theirs} | {target['text']} | {ratio} | {verdict(target)} "
            f"| {control_of(case)} | {pairs} |"
        )
    return rows


def case_section(case: dict[str, Any]) -> list[str]:
    lines = [f"### {case['title'][0].upper()}{case['title'][1:]}", "", case["meaning"], ""]
    lines += [f"*Where it stops holding:* {case['limits']}", ""]
    latency = case["latency"]
    head = (
        "| | figure (10–90 % of slices) |"
        + (" median, one by one | p99 |" if latency else "")
        + " slices | |"
    )
    lines += [head, "|" + "---|" * (head.count("|") - 1)]
    for entry in case["contenders"]:
        name = f"*{entry['title']}*" if entry["peer"] == "control" else entry["title"]
        if entry["peer"] == "isthmus":
            name = f"**{name}**"
        if not entry.get("slices"):
            reason = (entry["absent"] or "not measured").split("\n")[0]
            lines.append(f"| {name} | – |" + (" – | – |" if latency else "") + f" 0 | {reason} |")
            continue
        single = f" {shown(entry['alone_ns'], case)} | {shown(entry['p99_ns'], case)} |" if latency else ""
        note = entry["note"]
        if entry["absent"]:
            note = entry["absent"].split("\n")[0]
        if "elapsed" in entry:
            note = f"{number(1e3 / entry['elapsed'])} M/s. {note}".strip()
        if "smallest_share" in entry and entry["smallest_share"] < 1:
            note = f"smallest share {entry['smallest_share']:.0%}. {note}".strip()
        lines.append(f"| {name} | {spread(entry, case)} |{single} {entry['slices']} | {note} |")
    return [*lines, ""]


def render(results: dict[str, Any], plot: str | None) -> str:
    machine, cases = results["machine"], list(results["cases"].values())
    dates = sorted(case["date"] for case in cases)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    kind = "virtual machine" if machine["virtual"] else "machine"
    others = max(case.get("others", 0.0) for case in cases)
    quiet = f"While nothing was measured, other processes used at most {others:.0%} of the CPU."
    kept = (
        "In all worker processes alike Python's garbage collector is off and glibc is told to keep freed "
        "memory: at its defaults it returns large blocks and faults them in again with the next message, "
        "up to ten times the cost of the copy, for one library and not for another."
        if results.get("keep_memory", True)
        else "In all worker processes Python's garbage collector is off; glibc has its defaults."
    )
    lines = [
        (
            f"Measured {when} on a {kind} with {machine['cores']} cores of {machine['processor']} "
            f"(cache: {machine['cache']}), Linux {machine['kernel']}, {machine['python']}, "
            f"controls by {machine['compiler']}; {versions}."
        ),
        "",
        (
            f"Two processes pinned to two cores. Everybody's slices of about {results['seconds']:g} s "
            "take turns, because the machine has faster and slower minutes; a ratio is the median of the "
            "paired ratios of all rounds, in brackets its middle half. Absolute figures are medians of "
            "slices: compare them only with their neighbours and the control, never across tables or "
            "days."
        ),
        "",
        kept,
        "",
        quiet,
        "",
        "| what | Isthmus | against | target | measured ratio | | C control | pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        lines += target_rows(case)
    lines.append("")
    if plot:
        lines += [f"![The same figures as a plot]({plot})", ""]
    lines += ["## What each number means", ""]
    for case in cases:
        lines += case_section(case)
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Puts the text between the markers; adds them (and the page) where there are none."""
    old = page.read_text() if page.exists() else f"{HEADING}\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
