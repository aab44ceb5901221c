"""Signal handlers that raise at any moment, as Ctrl+C does: no stream loses its place."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from support import Peer

CODE = """
import itertools, os, random, signal, sys, threading, isthmus

kind, seconds = sys.argv[1], float(sys.argv[2])
one, other = isthmus.Stream.pair(type=bytes)
chance = random.Random(7)
interrupts = 0

class Interrupt(Exception):
    pass

def interrupt(*_):
    raise Interrupt

def size_of(number):
    return (number * 7919) % 300 if number % 50 else 100_000 + number % 1000

def message(number):
    return number.to_bytes(8, "little") + b"x" * size_of(number)

def check(data):
    number = int.from_bytes(data[:8], "little")
    assert len(data) == 8 + size_of(number), (number, len(data))
    return number

COUNT = 20_000
seen = []

def arm():
    signal.setitimer(signal.ITIMER_REAL, chance.choice([1e-4, 2e-4, 5e-4, 2e-3]))

signal.signal(signal.SIGALRM, interrupt)

if kind == "recv":
    def feed():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        for number in range(COUNT):
            one.send(message(number), flush=number % 3 == 0)
        one.finish()
    thread = threading.Thread(target=feed)
    thread.start()
    while True:
        try:
            try:
                arm()
                while True:
                    seen.append(check(other.recv(None if len(seen) % 2 else 10)))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            interrupts += 1
        except isthmus.ShutDown:
            break
    thread.join()
else:
    def drain():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        for data in other:
            seen.append(check(data))
    thread = threading.Thread(target=drain)
    thread.start()
    number = 0
    while number < COUNT:
        try:
            try:
                arm()
                while number < COUNT:
                    current, number = number, number + 1
                    one.send(message(current), None if current % 2 else 10, flush=current % 3 == 0)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            interrupts += 1
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    one.finish()
    thread.join()

# At most the message of each interrupted call is missing; none comes twice, none is torn, the order stays.
assert all(a < b for a, b in itertools.pairwise(seen)), "order"
missing = COUNT - len(seen)
assert missing <= interrupts, (missing, interrupts)
print(kind, interrupts, missing, flush=True)
assert interrupts > 100
"""


@pytest.mark.parametrize("kind", ["recv", "send"])
def test_interrupts_at_any_moment_leave_a_stream_in_its_place(kind: str, spawn: Callable[..., Peer]) -> None:
    out = spawn(CODE, kind, 2).finish()
    print(out, os.cpu_count())
    assert out.startswith(kind)
