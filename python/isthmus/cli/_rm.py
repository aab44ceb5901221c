"""``isthmus rm``: remove objects by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import isthmus
from isthmus.cli._queues import find, missing
from isthmus.cli._show import CommandError, counted, say

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Remove each of them that may be removed; 1 where one stays."""
    failed = 0
    for name in options.names:
        try:
            _remove(name, options)
        except FileNotFoundError as error:
            failed = 1
            say(f"error: {missing(error)}")
        except (CommandError, isthmus.IsthmusError, OSError) as error:
            failed = max(failed, getattr(error, "code", 1))
            say(f"error: {error}")
    return failed


def _remove(name: str, options: argparse.Namespace) -> None:
    found = find(name, options.namespace)
    if found.attached and not options.force:
        users = ", ".join(f"{one.pid} {one.command}".rstrip() for one in found.attached)
        raise CommandError(f"{name!r} is in use by {users}; --force removes its name all the same")
    isthmus.remove(name, options.namespace)
    inside = sum(found.state.get(part, 0) for part in ("depth", "leased", "dead"))
    if inside and not found.attached:
        say(f"{counted(inside, 'message')} went with {name!r}")
