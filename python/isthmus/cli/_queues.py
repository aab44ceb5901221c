"""Opening the queue that a command was asked for, as what it is, and closing it without losing a word."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli._content import Content, content_of, type_named
from isthmus.cli._show import CommandError, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

USAGE = 2


def find(name: str, namespace: str | None, *, messages: int = 0, size: int = 0) -> isthmus.Inspection:
    """Look at an object; `FileNotFoundError` where there is none, `CommandError` for what is no name."""
    try:
        return isthmus.inspect(name, messages=messages, size=size, namespace=namespace)
    except isthmus.IsthmusError:
        raise
    except ValueError as error:
        raise CommandError(str(error), USAGE) from None


def missing(error: FileNotFoundError) -> CommandError:
    """Return the error that says in words that there is no such object."""
    folder, _, name = str(error.filename).rpartition("/")
    return CommandError(f"there is no {name!r} in {folder}")


def existing(
    options: argparse.Namespace, *, unpickle: bool | None = None
) -> tuple[isthmus.Queue[Any], Content]:
    """Open a queue that is there, for its messages as the options want them."""
    try:
        return _open(options, unpickle)
    except FileNotFoundError as error:
        raise missing(error) from None


def existing_or_new(options: argparse.Namespace) -> tuple[isthmus.Queue[Any], Content]:
    """Open a queue, or create one that stays. What the options say must be so in either case."""
    wanted = None if options.type is None else _type(options.type)
    while True:
        try:
            queue, content = _open(options, None)
        except FileNotFoundError:
            pass
        else:
            _compare(queue, options, wanted)
            return queue, content
        try:
            isthmus.Queue.create(
                options.name,
                type=bytes if wanted is None else wanted,
                capacity=options.capacity,
                priorities=options.priorities,
                persistent=True,
                namespace=options.namespace,
            ).close()
        except FileExistsError:
            continue  # somebody was faster; it is opened as it is


@contextmanager
def closing(queue: isthmus.Queue[Any]) -> Iterator[None]:
    """Close the queue in the end, and say so where messages go with it."""
    try:
        yield
    finally:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            queue.close()
        for warning in caught:
            say(f"warning: {warning.message}")


def _open(options: argparse.Namespace, unpickle: bool | None) -> tuple[isthmus.Queue[Any], Content]:
    found = find(options.name, options.namespace)
    if found.problem:
        raise CommandError(f"{options.name!r} cannot be used: {found.problem}")
    if found.kind != "queue":
        raise CommandError(f"{options.name!r} is a {found.kind}, no queue")
    what = found.attributes
    content = content_of(
        what["type"], what["fingerprint"], json=options.json, raw=options.raw, unpickle=unpickle
    )
    return isthmus.Queue.open(options.name, type=content.type, namespace=options.namespace), content


def _compare(queue: isthmus.Queue[Any], options: argparse.Namespace, type: Any) -> None:
    """Refuse a queue that differs in what was asked for; the error says both."""
    if (type, options.capacity, options.priorities) == (None, None, None):
        return
    try:
        isthmus.Queue(
            queue.name,
            type=queue.type if type is None else type,
            capacity=options.capacity,
            priorities=options.priorities,
            namespace=options.namespace,
        ).close()
    except isthmus.IncompatibleError:
        queue.close()
        raise


def _type(name: str) -> Any:
    kind = object if name == "object" else type_named(name)
    if kind is None:
        raise CommandError(f"{name!r} is no type such as bytes, str, int, dict or list[int]", USAGE)
    return kind
