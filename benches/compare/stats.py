"""Medians, quantiles and paired ratios; no dependencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between neighbours; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and where its middle half lies."""

    median: float
    low: float
    high: float
    pairs: int


def paired_ratio(subject: dict[int, float], base: dict[int, float]) -> Ratio:
    """Subject / base, round by round; a round that either lacks is left out."""
    ratios = [subject[i] / base[i] for i in sorted(subject.keys() & base.keys()) if base[i] > 0]
    return Ratio(median(ratios), quantile(ratios, 0.25), quantile(ratios, 0.75), len(ratios))
