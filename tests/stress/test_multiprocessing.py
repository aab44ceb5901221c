"""Handles passed to `multiprocessing` and `concurrent.futures`, with every start method."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import run_python

START_METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])

SCRIPT = """
import multiprocessing, os, sys, threading, warnings
import isthmus

warnings.simplefilter("ignore", DeprecationWarning)


def echo(q, back, m, count):
    for _ in range(count):
        with m:
            got = q.get(timeout=30)
        back.put(got + b" from %d" % os.getpid())
    q.close(); back.close(); m.close()


def produce(q, number):
    for i in range(200):
        q.put(number.to_bytes(2, "little") + i.to_bytes(2, "little") + bytes(i * 50))
    q.close()


def main(method, name):
    context = multiprocessing.get_context(method)
    name = None if name == "anonymous" else name
    q = isthmus.Queue(name, type=bytes, capacity=1 << 20)
    back = isthmus.Queue(type=bytes, capacity=1 << 20)
    m = isthmus.Mutex(name and name + ".lock")

    workers = [context.Process(target=echo, args=(q, back, m, 50)) for _ in range(2)]
    for worker in workers: worker.start()
    for i in range(100):
        q.put(b"%d" % i)
    got = sorted(int(back.get(timeout=30).split()[0]) for _ in range(100))
    assert got == list(range(100)), got
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0, worker.exitcode

    workers = [context.Process(target=produce, args=(q, n)) for n in range(3)]
    for worker in workers: worker.start()
    following = [0, 0, 0]
    for _ in range(600):
        message = q.get(timeout=30)
        number, i = message[0], int.from_bytes(message[2:4], "little")
        assert following[number] == i and len(message) == 4 + i * 50
        following[number] += 1
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0, worker.exitcode

    # A worker that is terminated while it waits harms nobody.
    worker = context.Process(target=echo, args=(q, back, m, 1))
    worker.start()
    while not m.locked():
        assert worker.is_alive()
    worker.kill()
    worker.join(30)
    try:
        m.acquire(timeout=30)
    except isthmus.OwnerDied as died:
        assert died.pid == worker.pid
    else:
        raise AssertionError("nobody told")
    q.put(b"x"); assert q.get(timeout=30) == b"x"
    for handle in (q, back, m): handle.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
"""

POOL = """
import concurrent.futures, multiprocessing, os, sys, warnings
import isthmus

warnings.simplefilter("ignore", DeprecationWarning)
results = None


def begin(q):
    global results
    results = q


def work(number):
    results.put(b"%d" % number)
    return number


def main(method):
    context = multiprocessing.get_context(method)
    with isthmus.Queue(type=bytes, capacity=1 << 20) as q:
        pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context, initializer=begin, initargs=(q,))
        with pool:
            assert sorted(pool.map(work, range(200))) == list(range(200))
        assert sorted(int(q.get(timeout=30)) for _ in range(200)) == list(range(200))
        with context.Pool(2, initializer=begin, initargs=(q,)) as pool:
            pool.map(work, range(50))
            assert sorted(int(q.get(timeout=30)) for _ in range(50)) == list(range(50))
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
"""


def run_script(path: Path, script: str, *arguments: str) -> None:
    """Runs a script from a file, as spawn and forkserver need it."""
    path.write_text(script)
    direct = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(path)!r}, *sys.argv[1:]])"
    assert run_python(direct, *arguments, patience=90).strip() == "ok"


@START_METHODS
@pytest.mark.parametrize("name", ["anonymous", "named"])
def test_queues_and_mutexes_go_to_processes_of_every_start_method(
    tmp_path: Path, method: str, name: str
) -> None:
    run_script(tmp_path / "main.py", SCRIPT, method, name)


@START_METHODS
def test_they_go_to_pools(tmp_path: Path, method: str) -> None:
    run_script(tmp_path / "main.py", POOL, method)
