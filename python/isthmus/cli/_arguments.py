"""What arguments of the command line mean: numbers, sizes, seconds. What is none of these says so."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def number_between(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number in these bounds."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def amount(text: str) -> float:
    """Read a number above 0."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 such as 10 or 0.5")
    return float(text)


def seconds(text: str) -> float:
    """Read a time to wait, 0 included."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds such as 10, 0.5 or 0")
    return float(text)


def dimensions(text: str) -> tuple[int, int]:
    """Read width and height."""
    match = re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", text.strip(), re.ASCII)
    if not match or not all(32 <= int(side) <= 16384 for side in match.groups()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size from 32x32 to 16384x16384 such as 1920x1080"
        )
    return int(match[1]), int(match[2])


def size(text: str) -> int:
    """Read a number of bytes, with a unit or without."""
    match = re.fullmatch(r"([1-9][0-9]{0,17})\s*([kmgt]?)(?:i?b)?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512K, 8M or 1G")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
