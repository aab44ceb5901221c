"""Fork with handles in use: parent and child are two processes, what is held stays the parent's.

Each script runs in a process of its own and reports "ok"; children leave by os._exit with their verdict.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from forking import PRELUDE, run
from support import Peer, object_files, wait_until

Start = Callable[..., Peer]


@pytest.mark.parametrize("name", ["None", "'named'"])
def test_parent_and_child_both_use_the_handle(name: str) -> None:
    run(f"""
q = isthmus.Queue({name}, type=bytes, capacity=1 << 20)
back = isthmus.Queue(type=bytes, capacity=1 << 20)
def work():
    for i in range(500):
        assert q.get(timeout=20) == i.to_bytes(2, "little") * 10
        back.put(b"got %d" % i)
    q.close()
    back.close()
pid = child(work)
for i in range(500):
    q.put(i.to_bytes(2, "little") * 10)
    assert back.get(timeout=20) == b"got %d" % i
join(pid)
assert q.qsize() == 0 and back.qsize() == 0
q.put(b"x"); assert q.get() == b"x"
q.close(); back.close()
""")


def test_a_grandchild_uses_it_too_and_all_are_different_owners() -> None:
    run("""
m = isthmus.Mutex()
q = isthmus.Queue(type=bytes, capacity=1 << 20)
def turns(name):
    for _ in range(300):
        with m:
            assert m.owner() == os.getpid()
    q.put(name)
def grand():
    turns(b"grandchild")
def work():
    pid = child(grand)
    turns(b"child")
    join(pid)
pid = child(work)
turns(b"parent")
join(pid)
assert sorted(q.get(timeout=0) for _ in range(3)) == [b"child", b"grandchild", b"parent"]
q.close()
""")


def test_a_child_of_a_child_that_never_used_it() -> None:
    run("""
q = isthmus.Queue(type=bytes, capacity=1 << 20)
q.put(b"one")
def work():
    join(child(lambda: q.put(q.get(timeout=20) + b" two")))
join(child(work))
assert q.get(timeout=0) == b"one two"
q.close()
""")


def test_forked_while_another_thread_waits_in_get() -> None:
    run("""
q = isthmus.Queue(type=bytes, capacity=1 << 20)
got = []
waiting = [threading.Thread(target=lambda: got.append(q.get())) for _ in range(3)]
for thread in waiting: thread.start()
time.sleep(0.2)
def work():
    try:
        q.get(timeout=0.1)
    except isthmus.Empty:
        pass
    for i in range(3):
        q.put(b"from the child")
    q.close()
join(child(work))
for thread in waiting: thread.join(20)
assert got == [b"from the child"] * 3, got
q.close()
""")


def test_forked_while_other_threads_put_and_get_all_the_time() -> None:
    """A child forked at any moment finds no lock of the library held by a thread it does not have."""
    run("""
q = isthmus.Queue(type=bytes, capacity=1 << 18)
reply = isthmus.Queue(type=bytes, capacity=1 << 20)
stop = False
def putter():
    while not stop:
        try: q.put(bytes(64), timeout=0.1)
        except isthmus.Full: pass
def getter():
    while not stop:
        try: q.get(timeout=0.1)
        except isthmus.Empty: pass
def opener():
    while not stop:
        with isthmus.Queue("other", type=bytes, capacity=1 << 16): pass
threads = [threading.Thread(target=f) for f in (putter, putter, getter, getter, opener)]
for thread in threads: thread.start()
def work():
    for _ in range(20):
        try: q.put(bytes(64), timeout=5); q.get(timeout=5)
        except isthmus.Timeout: pass
    with isthmus.Queue("other", type=bytes, capacity=1 << 16):
        pass
    with isthmus.Queue("another", type=bytes, capacity=1 << 16) as new:
        new.put(b"x"); assert new.get(timeout=5) == b"x"
    reply.put(b"done")
    os._exit(0)
for _ in range(40):
    pid = child(work)
    assert reply.get(timeout=20) == b"done"
    join(pid)
stop = True
for thread in threads: thread.join(20)
while not q.empty(): q.get()
q.close(); reply.close()
""")


def test_what_the_parent_holds_is_not_the_childs() -> None:
    run("""
m = isthmus.Mutex()
m.acquire()
def work():
    assert m.locked()
    assert m.owner() == os.getppid()
    assert m.acquire(timeout=0.2) is False
    try:
        m.release()
    except isthmus.NotOwnerError:
        pass
    else:
        raise AssertionError("the child released its parent's lock")
    assert m.owner() == os.getppid()
join(child(work))
assert m.owner() == os.getpid()
m.release()
join(child(lambda: m.acquire(timeout=5) and m.release()))
m.close()
""")


def test_leaving_a_with_block_in_the_child_does_nothing() -> None:
    run("""
m = isthmus.Mutex()
ready, gate = os.pipe(), os.pipe()
with m:
    pid = os.fork()
    if pid:
        os.read(ready[0], 1)  # the child has left the block
        assert m.owner() == os.getpid(), m.owner()
        os.write(gate[1], b"x")
if pid == 0:
    os.write(ready[1], b"x")
    os.read(gate[0], 1)
    os._exit(0 if m.acquire(timeout=20) else 1)
_, status = os.waitpid(pid, 0)
assert status == 0, status
try:
    m.acquire(timeout=20)
except isthmus.OwnerDied as died:
    assert died.pid == pid  # the child took it and ended
else:
    raise AssertionError("the child's ownership vanished")
m.close()
""")


def test_leaving_a_recover_block_in_the_child_does_nothing(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    dead = spawn(
        "import isthmus; m = isthmus.Mutex.open('lock'); m.acquire(); print('held', flush=True); input()"
    )
    dead.expect("held")
    dead.kill()
    run("""
m = isthmus.Mutex.open("lock")
with m.recover() as death:
    assert death is not None
    pid = os.fork()
    if pid:
        join(pid)
        assert m.owner() == os.getpid()
        assert m.locked()
if pid == 0:
    os._exit(0)
m.close()
""")
    with lock:
        pass
    lock.close()


def test_the_death_of_the_parent_is_seen_although_the_child_inherited_everything(spawn: Start) -> None:
    lock = isthmus.Mutex("lock")
    parent = spawn(f"""{PRELUDE}
m = isthmus.Mutex.open("lock")
m.acquire()
pid = os.fork()
if pid == 0:
    time.sleep(60)
    os._exit(0)
say(pid)
sys.stdin.readline()
""")
    child = int(parent.line())
    try:
        parent.process.kill()
        with pytest.raises(isthmus.OwnerDied) as caught:
            lock.acquire(timeout=20)
        assert caught.value.pid == parent.pid
    finally:
        os.kill(child, signal.SIGKILL)
    lock.close()


def test_the_death_of_a_child_is_seen_by_its_parent() -> None:
    run("""
m = isthmus.Mutex()
ready = os.pipe()
def work():
    m.acquire()
    os.write(ready[1], b"x")
    time.sleep(60)
pid = child(work)
os.read(ready[0], 1)
assert m.acquire(timeout=0.3) is False
os.kill(pid, signal.SIGKILL)
try:
    m.acquire(timeout=20)
except isthmus.OwnerDied as died:
    assert died.pid == pid
else:
    raise AssertionError
os.waitpid(pid, 0)
with m.recover():
    pass
with m:
    pass
m.close()
""")


def test_a_child_that_is_killed_takes_nothing_of_its_parent_along() -> None:
    """Classic locks go when any descriptor is closed, but a dying child has its own."""
    run("""
m = isthmus.Mutex()
m.acquire()
for _ in range(5):
    pid = child(lambda: (m.acquire(timeout=0), time.sleep(60)))
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
code = '''
import pickle, sys
m = pickle.loads(bytes.fromhex(sys.argv[1]))
assert m.acquire(timeout=1.5) is False
'''
import pickle, subprocess
subprocess.run([sys.executable, "-c", code, pickle.dumps(m).hex()], check=True)
m.release()
m.close()
""")


def test_the_name_lives_as_long_as_a_child_that_inherited_it(namespace: Path, spawn: Start) -> None:
    parent = spawn(f"""{PRELUDE}
q = isthmus.Queue("inherited", type=bytes, capacity=1 << 20)
ready, gate = os.pipe(), os.pipe()
def work():
    os.write(ready[1], b"x")
    os.read(gate[0], 1)
    q.put(b"x")
    assert q.get(timeout=0) == b"x"
    q.close()
pid = child(work)
os.read(ready[0], 1)
q.close()
say("closed")
sys.stdin.readline()
os.write(gate[1], b"x")
join(pid)
say("joined")
""")
    parent.expect("closed")
    assert object_files(namespace) == ["inherited"]
    parent.send()
    parent.expect("joined")
    parent.finish()
    wait_until(lambda: object_files(namespace) == [] or isthmus.clean() is None, "the name to go")


def test_a_child_that_closes_does_not_remove_the_name_from_its_parent(namespace: Path) -> None:
    run("""
q = isthmus.Queue("inherited", type=bytes, capacity=1 << 20)
def work():
    q.close()
join(child(work))
again = isthmus.Queue.open("inherited", type=bytes)
again.put(b"x")
assert q.get(timeout=0) == b"x"
again.close()
q.close()
""")
    assert object_files(namespace) == []


def test_daemonised_twice_over() -> None:
    """The usual double fork: the grandchild goes on alone, with handles opened by a process long gone."""
    with isthmus.Queue("daemon", type=bytes, capacity=1 << 20) as handle:
        run("""
q = isthmus.Queue.open("daemon", type=bytes)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for i in range(100):
            q.put(b"%d" % i)
        q.close()
    os._exit(0)
os._exit(0)
""")
        assert [handle.get(timeout=20) for _ in range(100)] == [b"%d" % i for i in range(100)]
