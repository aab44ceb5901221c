"""One process sends as fast as it can, the other receives."""

from __future__ import annotations

from benches.compare.contenders import Contender, Control, Stream
from benches.compare.peers import ISTHMUS

from .base import BEST, Case, Choice, Target, case

BATCH = {64: 512, 1024: 128}  # 32 KiB and 128 KiB: they stay in a core's own cache


def message_of(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def small(size: int, name: str, choice: Choice) -> Case:
    message, batch = message_of(size), BATCH[size]
    peers = choice.some(size)
    contenders: list[Contender] = [Stream(ISTHMUS, message), Stream(ISTHMUS, message, batch)]
    contenders += [Stream(peer, message) for peer in peers]
    contenders += [Stream(peer, message, batch) for peer in peers if peer.batches]
    contenders.append(Control("memcpy", f"C: memcpy of {name}, one core", size))
    return Case(
        f"stream-{size}",
        f"{name} stream",
        "M/s",
        contenders,
        [
            Target("isthmus", "cloudtoid-poll", at_least=1.2, aim="1.5"),
            Target("isthmus-batch", "cloudtoid-poll", at_least=4),
        ],
        f"Messages of {name} from one process to another, one call a message on each side, the receiver "
        f"making a `bytes` of each. In batches: `put_many` of {batch} and `get_many` of at most as many; "
        "the target compares them with cloudtoid's single calls (it can send batches but not receive "
        "them; that is a line of its own).",
        "One producer and one consumer that both keep up, each on its own core. As soon as one side is "
        "slower by itself (it does something with the message) its own speed is all that counts.",
        keep={"cloudtoid-poll-batch"},
    )


def large(size: int, name: str, choice: Choice) -> Case:
    message = message_of(size)
    return Case(
        f"stream-{size}",
        f"{name} stream, bytes to bytes",
        "GB/s",
        [
            Stream(ISTHMUS, message),
            *(Stream(peer, message) for peer in choice.some(size)),
            Control("memcpy", f"C: memcpy of {name}, one core", size),
        ],
        [Target("isthmus", BEST, at_least=1.2)],
        f"Messages of {name}: copied in by the sender and out into a new `bytes` by the receiver. "
        "The best peer is whichever is fastest in this run.",
        "The same bytes are sent again and again, so the source is in the cache; with fresh data each "
        "time add what reading it from memory costs. Allocating the `bytes` is in the figure: for "
        "megabytes this can be as much as the copy, and depends on the allocator's thresholds.",
        size=size,
    )


@case("stream-64")
def stream_64(choice: Choice) -> Case:
    return small(64, "64 B", choice)


@case("stream-1k")
def stream_1k(choice: Choice) -> Case:
    return small(1024, "1 KiB", choice)


@case("stream-64k")
def stream_64k(choice: Choice) -> Case:
    return large(64 << 10, "64 KiB", choice)


@case("stream-1m")
def stream_1m(choice: Choice) -> Case:
    return large(1 << 20, "1 MiB", choice)


@case("stream-6m")
def stream_6m(choice: Choice) -> Case:
    return large(6 << 20, "6 MiB", choice)
