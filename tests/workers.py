"""Programs that tests run in processes of their own and kill: producers, consumers, lock takers.

What a worker has done stands in its journal, a mapped file that outlives it: each number is one 8-byte
store, made before and after the call it is about, so a kill at any instruction leaves it right.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
import warnings
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import isthmus

HEADER = 24
"""Bytes of a message before its body: producer, sequence (8 each), size, checksum of the body (4 each)."""

_NOISE = random.Random(1).randbytes(1 << 16) * 2
_MIXTURES: dict[str, list[int]] = {
    "inline": [HEADER, 32, 64, 64, 64, 200, 1000],
    "edge": [4032 + step for step in range(0, 129, 8)],
    "large": [5000, 20_000, 65_536, 100_000, 300_000],
    "mixed": [HEADER, 64, 64, 64, 1000, 4095, 4096, 4097, 4200, 20_000, 70_000, 250_000],
}


def message(producer: int, sequence: int, size: int) -> bytes:
    """A message that proves itself: its body depends on who sent it and as which."""
    length = size - HEADER
    start = (producer * 7919 + sequence * 104_729) % (1 << 16)
    body = _NOISE[start : start + length]
    while len(body) < length:
        body += _NOISE[: length - len(body)]
    head = producer.to_bytes(8, "little") + sequence.to_bytes(8, "little") + size.to_bytes(4, "little")
    return head + zlib.crc32(body, sequence & 0xFFFFFFFF).to_bytes(4, "little") + body


def identify(got: bytes | memoryview) -> tuple[int, int]:
    """Producer and sequence of a message; raises when it is torn."""
    if len(got) < HEADER:
        raise AssertionError(f"torn: a message of {len(got)} bytes: {got!r}")
    producer, sequence = int.from_bytes(got[:8], "little"), int.from_bytes(got[8:16], "little")
    size, checksum = int.from_bytes(got[16:20], "little"), int.from_bytes(got[20:24], "little")
    if size != len(got):
        raise AssertionError(f"torn: {len(got)} bytes of {size} of message {sequence} of producer {producer}")
    if zlib.crc32(memoryview(got)[HEADER:], sequence & 0xFFFFFFFF) != checksum:
        raise AssertionError(f"torn: the body of message {sequence} of producer {producer} ({size} bytes)")
    return producer, sequence


class Journal:
    """A mapped file of 8-byte words: `started`, `done`, `stop`, `attached`, then a log of `done` entries."""

    STARTED, DONE, STOP, ATTACHED, LOG = 0, 1, 2, 3, 8

    def __init__(self, path: str | Path, *, words: int | None = None) -> None:
        if words is not None:
            with Path(path).open("xb") as file:
                file.truncate(words * 8)  # sparse: only what is written takes memory
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.words = memoryview(self._map).cast("Q")

    def log(self) -> list[int]:
        """The entries that were appended in full."""
        return self.words[self.LOG : self.LOG + self.words[self.DONE]].tolist()

    def close(self) -> None:
        """Unmaps it."""
        self.words.release()
        self._map.close()


def produce(journal: str, queue: str, number: int, mixture: str, batch: int) -> None:
    """Puts messages until told to stop; `started` and `done` count those of its own."""
    words = Journal(journal).words
    sizes = _MIXTURES[mixture]
    choose = random.Random(number)
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    count = 0
    while not words[Journal.STOP]:
        waiting = [message(number, count + i, choose.choice(sizes)) for i in range(batch or 1)]
        words[Journal.STARTED] = count + len(waiting)
        while waiting:
            try:
                if batch:
                    handle.put_many(waiting, timeout=0.5)
                else:
                    handle.put(waiting[0], timeout=0.5)
            except isthmus.Full as full:
                sent = full.sent
            else:
                sent = len(waiting)
            del waiting[:sent]
            count += sent
            words[Journal.DONE] = count
            if sent == 0 and words[Journal.STOP]:
                words[Journal.STARTED] = count
                break
    handle.close()


def consume(journal: str, queue: str, batch: int) -> None:
    """Gets messages until told to stop and nothing is left; logs producer and sequence of each in a word."""
    words = Journal(journal).words
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    end = len(words) - Journal.LOG
    count = 0
    while True:
        stop = words[Journal.STOP]  # read before the queue: empty after this means drained
        try:
            got = handle.get_many(batch, timeout=0.2) if batch else [handle.get(timeout=0.2)]
        except isthmus.Empty:
            if stop:
                break
            continue
        for each in got:
            producer, sequence = identify(each)
            if count == end:
                raise AssertionError("the journal is too short for this test")
            words[Journal.LOG + count] = producer << 40 | sequence
            count += 1
            words[Journal.DONE] = count
    handle.close()


def flood(journal: str, queue: str, number: int, batch: int, width: int) -> None:
    """Puts batches made beforehand, so that it is nearly always inside `put_many` when it is killed.

    A message is its identity, again with every bit turned, and filling up to `width` bytes.
    """
    words = Journal(journal).words
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    mask = (1 << 64) - 1
    filling = bytes(width - 16)
    count = 0
    while not words[Journal.STOP]:
        supply = [
            [
                (identity := number << 40 | sequence).to_bytes(8, "little")
                + (identity ^ mask).to_bytes(8, "little")
                + filling
                for sequence in range(first, first + batch)
            ]
            for first in range(count, count + 100 * batch, batch)
        ]
        for messages in supply:
            words[Journal.STARTED] = count + batch
            left = messages
            while left:
                try:
                    sent = handle.put_many(left, timeout=0.5)
                except isthmus.Full as full:
                    sent = full.sent
                count += sent
                words[Journal.DONE] = count
                left = left[sent:]
            if words[Journal.STOP]:
                break
    handle.close()


def drink(journal: str, queue: str, batch: int, width: int) -> None:
    """Gets batches and logs both words of each message unlooked at: nearly always inside `get_many`."""
    words = Journal(journal).words
    log = memoryview(words)[Journal.LOG :].cast("B")
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    count = 0
    while True:
        stop = words[Journal.STOP]
        try:
            got = handle.get_many(batch, timeout=0.2)
        except isthmus.Empty:
            if stop:
                break
            continue
        if any(len(each) != width for each in got):
            raise AssertionError(f"torn: messages of {sorted(set(map(len, got)))} bytes, not {width}")
        data = b"".join([each[:16] for each in got])
        if 16 * count + len(data) > len(log):
            raise AssertionError("the journal is too short for this test")
        log[16 * count : 16 * count + len(data)] = data
        count += len(got)
        words[Journal.DONE] = count
    handle.close()


def take_turns(journal: str, mutex: str, shared: str, on_owner_died: Any, number: int) -> None:
    """Takes a mutex again and again; inside it changes what only the mutex keeps consistent.

    Words of `shared`: 0 and 1 are equal outside the critical section, 2 is who is inside.
    """
    words = Journal(journal).words
    state = Journal(shared).words
    choose = random.Random(number)
    lock = isthmus.Mutex.open(mutex, on_owner_died=on_owner_died)
    words[Journal.ATTACHED] = 1
    me = os.getpid()
    count = 0

    def alone(*, repair: bool) -> None:
        inside = state[2]
        if inside and not repair:
            raise AssertionError(f"{me} came in without a word of warning while {inside} was inside")
        if inside:
            try:
                status = Path(f"/proc/{inside}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                status = "gone"
            if status not in ("Z", "X", "gone"):
                raise AssertionError(f"{me} came in while the living {inside} ({status}) was inside")
        state[2] = me
        if state[0] != state[1]:
            if not repair:
                raise AssertionError(f"inconsistent ({state[0]}, {state[1]}) without a word of warning")
            state[1] = state[0]

    def work() -> None:
        nonlocal count
        words[Journal.STARTED] = count + 1
        state[0] += 1
        for _ in range(choose.choice([0, 0, 10, 300])):
            pass
        if state[2] != me:
            raise AssertionError(f"{state[2]} came in while {me} was inside")
        state[1] += 1
        if state[0] != state[1]:
            raise AssertionError(f"somebody else was inside with {me}: ({state[0]}, {state[1]})")
        count += 1
        words[Journal.DONE] = count
        state[2] = 0

    while not words[Journal.STOP]:
        try:
            if not lock.acquire(timeout=choose.choice([None, 0.001, 0.5])):
                continue
        except isthmus.OwnerDied:
            try:
                with lock.recover(timeout=0.5) as death:
                    alone(repair=death is not None)
                    work()
            except isthmus.Timeout:
                pass
            continue
        alone(repair=on_owner_died == "recover")
        work()
        lock.release()
    lock.close()


def count_up(journal: str, value: str, step: int, limited: bool) -> None:
    """Adds to a value until told to stop; with `limited` only as often as its journal's log permits."""
    words = Journal(journal).words
    handle = isthmus.Value.open(value)
    words[Journal.ATTACHED] = 1
    count = 0
    while not words[Journal.STOP]:
        if limited and count >= words[Journal.LOG]:
            time.sleep(0.001)
            continue
        words[Journal.STARTED] = count + 1
        handle.add(step)
        count += 1
        words[Journal.DONE] = count
    handle.close()


def add_ones(value: isthmus.Value, count: int) -> None:
    """For processes of `multiprocessing`, which find it by the name of this module."""
    for _ in range(count):
        value.add(1)
    value.close()


def fill_memory(memory: isthmus.SharedMemory, number: int) -> None:
    """Likewise: writes a number where it belongs, and makes the memory larger."""
    view = memory.view()
    memory.grow(100 + number)
    memory.close()
    view[number] = number


def fill_array(array: isthmus.SharedArray, number: int) -> None:
    """Likewise."""
    array.array[number] = number
    array.close()


def fill_file(file: isthmus.MappedFile, number: int) -> None:
    """Likewise, under a lock."""
    with file.lock(number, 1):
        file.write(number, bytes([100 + number]))
    file.close()


def take(shared: Any) -> None:
    """Likewise: takes an object of synchronization, or does what whoever waits for it is waiting for."""
    match shared:
        case isthmus.Event():
            shared.set()
        case isthmus.Barrier():
            shared.wait(timeout=30)
        case isthmus.RWLock():
            shared.write.acquire()
            shared.write.release()
        case isthmus.Condition():
            with shared:
                shared.notify()
        case _:
            shared.acquire()
            shared.release()


def come_and_go(journal: str, queue: str, capacity: int, number: int) -> None:
    """Opens or creates a queue, uses it, closes it, again and again; nobody else keeps it alive."""
    words = Journal(journal).words
    choose = random.Random(number)
    warnings.simplefilter("ignore", ResourceWarning)
    count = 0
    while not words[Journal.STOP]:
        handle = isthmus.Queue(queue, type=bytes, capacity=capacity)
        words[Journal.ATTACHED] = 1
        handle.put(message(number, count, choose.choice([64, 5000])), timeout=10)
        with contextlib.suppress(isthmus.Empty):
            for got in handle.get_many(2, timeout=0):
                identify(got)
        handle.close()
        count += 1
        words[Journal.DONE] = count


def operate(journal: str, operation: str, name: str, prepare: str) -> None:
    """Does one thing once, when told, for those who step through it and kill it there (see stepper.py).

    It waits without a system call and without our native code, so both are found where the thing begins.
    """
    words = Journal(journal).words
    warnings.simplefilter("ignore", ResourceWarning)
    scope: dict[str, Any] = {"isthmus": isthmus, "name": name}
    exec(prepare, scope)
    call = eval(f"lambda: {operation}", scope)
    words[Journal.ATTACHED] = 1
    while not words[Journal.STOP]:
        pass
    call()
    words[Journal.DONE] = 1
    time.sleep(5)  # it is killed here


def visit(journal: str, queue: str) -> None:
    """Attaches, puts one message, and stays until it is killed."""
    words = Journal(journal).words
    handle = isthmus.Queue.open(queue, type=bytes)
    handle.put(b"visited", timeout=10)
    words[Journal.DONE] = 1
    while not words[Journal.STOP]:
        time.sleep(0.05)
    handle.close()


def run(program: str, arguments: dict[str, Any]) -> int:
    """Runs a program of this module, or of another (`module.program`).

    What it fails with, and on SIGUSR1 where it stands, is written down.
    """
    module, _, function = program.rpartition(".")
    with Path(arguments["journal"] + ".stack").open("w") as stack:
        faulthandler.register(signal.SIGUSR1, file=os.dup(stack.fileno()))
    try:
        getattr(importlib.import_module(module or __name__), function)(**arguments)
    except BaseException:
        Path(arguments["journal"] + ".error").write_text(traceback.format_exc())
        return 1
    return 0


def zygote() -> None:
    """Forks a worker for each line of JSON on standard input, prints its process id.

    It has imported isthmus but never used it: its children are as unrelated to each other as processes
    that were started one by one, and start a hundred times faster. Children that died stay zombies until
    the next line, so the others meet zombies too.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
        if order == "reap":
            continue
        pid = os.fork()
        if pid == 0:
            prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: no worker outlives its test
            if os.getppid() != parent:
                os._exit(1)
            os._exit(run(*order))
        print(pid, flush=True)


def report_blocked(connection: Connection) -> None:
    """Says which signals this process blocks."""
    connection.send({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])})
