"""The raw figures, kept as JSON; a run of some cases replaces only those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VERSION = 1


def load(path: Path) -> dict[str, Any]:
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found.get("version") == VERSION:
            return found
    return {"version": VERSION, "cases": {}}


def merge(old: dict[str, Any], new: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """The new machine and cases, and those of the old cases that were not measured again."""
    cases = old["cases"] | new["cases"]
    ordered = {key: cases[key] for key in order if key in cases}
    return new | {"version": VERSION, "cases": ordered}


def save(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
