"""Numbers as people read them."""

from __future__ import annotations

from typing import Any


def amount(nanoseconds: float, unit: str, size: int) -> float:
    """Nanoseconds an operation in the case's unit."""
    if unit == "M/s":
        return 1e3 / nanoseconds
    if unit == "GB/s":
        return size / nanoseconds
    return nanoseconds / {"ns": 1.0, "us": 1e3, "ms": 1e6}[unit]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def shown(nanoseconds: float, case: dict[str, Any]) -> str:
    return f"{number(amount(nanoseconds, case['unit'], case['size']))} {case['unit'].replace('us', 'µs')}"


def spread(entry: dict[str, Any], case: dict[str, Any]) -> str:
    """Median and, in brackets, the 10th to the 90th percentile of the slices."""
    ends = sorted(amount(entry[k], case["unit"], case["size"]) for k in ("low_ns", "high_ns"))
    return f"{shown(entry['median_ns'], case)} ({number(ends[0])}–{number(ends[1])})"


def by_key(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in case["contenders"]}
