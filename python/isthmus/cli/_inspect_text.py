"""What `isthmus inspect` prints for people."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from isthmus.cli._ls import when
from isthmus.cli._show import counted, printable, size

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 72
"""How much of a message is shown."""

Told = dict[str, Any]


def lines(shown: Told) -> Iterator[str]:
    """Yield the lines that show an object, given as JSON has it."""
    for title, texts in _parts(shown):
        for number, text in enumerate(texts):
            yield f"{'' if number else title:<9} {printable(text)}".rstrip()


def _parts(shown: Told) -> Iterator[tuple[str, list[str]]]:
    kept = "stays until removed" if shown["persistent"] else "goes with its last user"
    yield "name", [f"{shown['name']}, a {shown['kind']}" if shown["kind"] != "?" else shown["name"]]
    if shown["problem"]:
        yield "problem", [shown["problem"]]
    layout = f"layout version {shown['version']}, " if shown["version"] else ""
    yield "file", [f"{size(shown['size'])}, {layout}created {when(shown['created'])}, {kept}"]
    yield "attached", [_user(one) for one in shown["attached"]] or ["nobody"]
    if shown["kind"] == "queue" and shown["attributes"]:
        yield from _queue(shown)
    elif shown["kind"] == "mutex" and shown["state"]:
        yield "state", [_mutex(shown["state"])]
    elif shown["kind"] == "memory" and shown["state"]:
        array = shown["attributes"].get("array")
        yield "content", [size(shown["state"]["size"]) + (f", array {array}" if array else "")]
    elif shown["kind"] == "value" and shown["state"]:
        yield "value", [f"{shown['state']['value']} ({shown['attributes']['type']})"]
    else:
        yield from _others(shown)


def _others(shown: Told) -> Iterator[tuple[str, list[str]]]:
    """Yield what is known of kinds of which nothing special is known here."""
    for title, part in (("made", shown["attributes"]), ("state", shown["state"])):
        if part:
            yield title, [f"{key.replace('_', ' ')}: {value}" for key, value in part.items()]


def _user(one: Told) -> str:
    does = [*one["roles"]]
    if one["handles"] > 1:
        does.append(counted(one["handles"], "handle"))
    if one["event_loops"]:
        does.append(counted(one["event_loops"], "event loop"))
    for key, what in (("waiting_to_put", "room"), ("waiting_to_get", "a message")):
        if one[key]:
            does.append(f"{counted(one[key], 'thread')} {'waits' if one[key] == 1 else 'wait'} for {what}")
    return f"{one['pid']} {one['command']}".rstrip() + (f" ({', '.join(does)})" if does else "")


def _queue(shown: Told) -> Iterator[tuple[str, list[str]]]:
    made, layout, now = shown["attributes"], shown["layout"], shown["state"]
    ends = ", ends with its producers" if made["ends_with_producers"] else ""
    levels = f", {made['priorities']} priorities" if made["priorities"] > 1 else ""
    told = f"of type {made['type']}, handed out {made['max_deliveries']} times at most{levels}{ends}"
    yield "messages", [told]
    rings = f" in each of {made['priorities']} rings" if made["priorities"] > 1 else ""
    small = f"{size(layout['ring_bytes'])}{rings} for messages of up to {layout['small_max']:,} B"
    large = f"{size(layout['blocks_bytes'])} for larger ones; {layout['leases']} leases"
    yield "capacity", [f"{size(made['capacity'])}, {now['fill']:.0%} full: {small}, {large}"]
    counts = f"{now['depth']:,} waiting, {now['leased']:,} on lease, {now['dead']:,} dead"
    if made["priorities"] > 1:
        counts += f"; by priority from 0: {', '.join(f'{depth:,}' for depth in now['by_priority'])}"
    state = [
        counts,
        f"{now['put']:,} put and {now['got']:,} taken ever; the largest had {size(now['largest'])}",
    ]
    if now["shut_down"]:
        state.append("shut down: takes no more messages")
    for key, what in (("putting", "put"), ("getting", "get")):
        if now[key] is not None:
            state.append(f"process {now[key]} is in the middle of a {what}")
    yield "state", state
    for title, states in (("next", ("returned", "waiting")), ("on lease", ("leased",)), ("dead", ("dead",))):
        found = [_message(one) for one in shown["messages"] if one["state"] in states]
        if found:
            yield title, found


def _message(one: Told) -> str:
    told = [f"#{one['number']}", size(one["size"])]
    if one["priority"]:
        told.append(f"priority {one['priority']}")
    if one["sender"] is not None:
        told.append(f"from {one['sender']}")
    if one["state"] == "leased":
        told.append(f"held by {one['holder']}, delivery {one['deliveries']}")
    elif one["deliveries"]:
        told.append(f"delivered {counted(one['deliveries'], 'time')}")
    if one["reason"]:
        told.append(f"because: {one['reason']}")
    return f"{', '.join(told)}: {_beginning(one)}"


def _beginning(one: Told) -> str:
    if "base64" in one:
        text = repr(base64.b64decode(one["base64"]))
    else:
        text = one["data"] if isinstance(one["data"], str) else repr(one["data"])
    cut = one["truncated"] or len(text) > WIDTH
    return text[:WIDTH] + "…" * cut


def _mutex(now: Told) -> str:
    if now["owner_died"]:
        pid = now["owner_died"]["pid"]
        died = f"its owner{f', process {pid},' if pid else ''} died holding it"
        return f"{died}; process {now['owner']} is repairing" if now["held"] else f"{died}: to be recovered"
    if not now["held"]:
        return "free"
    return f"held by {now['owner']}" + ("" if now["owner_alive"] else ", which is dead")
