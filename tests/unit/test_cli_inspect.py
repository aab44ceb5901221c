"""`isthmus inspect` and `isthmus rm`: what they show, what they refuse, and that looking takes nothing."""

import base64
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import isthmus
from commands import assert_error, isthmus_command, on_terminal
from isthmus.cli._inspect_text import lines
from support import HEADER, Peer, put_word

WORKER = """
import isthmus, sys
q = isthmus.Queue.open("jobs", type=bytes)
lease = q.lease()
print("leased", flush=True)
sys.stdin.readline()
lease.ack()
"""


class Job(msgspec.Struct):
    id: int


def inspected(name: str, *options: str, code: int = 0) -> Any:
    done = isthmus_command("inspect", name, "--json", *options)
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout, parse_constant=pytest.fail)


def text(name: str, *options: str) -> str:
    done = isthmus_command("inspect", name, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_json_has_all_there_is(spawn: Callable[..., Peer]) -> None:
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 16, priorities=2) as q:
        q.put_many([b"one", b"two", "drei €".encode(), b"\xff\xfe"])
        q.put(b"x" * 5000, priority=1)
        worker = spawn(WORKER)
        worker.expect("leased")
        q.lease().reject("no such file")
        found = inspected("jobs", "--bytes", "5")
        assert list(found) == [
            "name", "kind", "size", "created", "persistent", "version", "attached", "problem",
            "attributes", "layout", "state", "messages",
        ]  # fmt: skip
        assert (found["name"], found["kind"], found["persistent"], found["problem"]) == (
            "jobs",
            "queue",
            False,
            None,
        )
        assert found["attributes"] == {
            "type": "bytes", "fingerprint": "0" * 16, "capacity": 1 << 16, "priorities": 2,
            "max_deliveries": 20, "ends_with_producers": False,
        }  # fmt: skip
        me = os.getpid()
        attached = {one["pid"]: one for one in found["attached"]}
        assert set(attached) == {me, worker.pid}
        assert list(attached[worker.pid]) == [
            "pid", "command", "uid", "roles", "handles", "event_loops", "waiting_to_put", "waiting_to_get",
        ]  # fmt: skip
        assert attached[worker.pid]["roles"] == ["consumer"]
        two, three, four, held, dead = found["messages"]
        common = {"priority": 0, "deliveries": 0, "sender": me, "holder": None, "reason": ""}
        assert two == {
            "state": "waiting",
            "number": 1,
            "size": 3,
            **common,
            "truncated": False,
            "data": "two",
        }
        assert (three["data"], three["size"], three["truncated"]) == ("drei ", 8, True)
        assert (four["base64"], "data" in four) == ("//4=", False)
        told = [held[key] for key in ("state", "holder", "deliveries", "data")]
        assert told == ["leased", worker.pid, 1, "xxxxx"]
        assert (dead["state"], dead["reason"], dead["data"]) == ("dead", "no such file", "one")
        assert inspected("jobs", "--bytes", "6")["messages"][1]["data"] == "drei "
        assert inspected("jobs", "--messages", "1")["messages"][1]["state"] == "leased"
        worker.send()
        worker.finish()
        assert q.stats().depth == 3
        assert q.get_many(3) == [b"two", "drei €".encode(), b"\xff\xfe"]
        q.dead.get()


def test_people_are_told_the_same(spawn: Callable[..., Peer]) -> None:
    with isthmus.Queue("jobs", type=bytes, capacity=1 << 20, persistent=True) as q:
        q.put_many([b"one", b"two", b"three \x1b[2J", b"x" * 200])
        worker = spawn(WORKER)
        worker.expect("leased")
        q.lease().reject("no such file")
        told = text("jobs")
        assert "\x1b" not in told
        for line in (
            "name      jobs, a queue",
            r"file      1\.1 MiB, layout version \d+, created \d\d:\d\d:\d\d, stays until removed",
            rf"(?:attached| {{8}})  {worker.pid} python.* \(consumer\)",
            "messages  of type bytes, handed out 20 times at most",
            r"capacity  1\.0 MiB, 0% full: 512\.0 KiB for messages of up to 4,096 B, 512\.0 KiB for .*",
            "state     2 waiting, 1 on lease, 1 dead",
            "          4 put and 2 taken ever; the largest had 200 B",
            rf"next      #2, 10 B, from {os.getpid()}: three \\x1b\[2J",
            rf"          #3, 200 B, from {os.getpid()}: x{{72}}…",
            rf"on lease  #0, 3 B, from {os.getpid()}, held by {worker.pid}, delivery 1: one",
            rf"dead      #1, 3 B, from {os.getpid()}, delivered 1 time, because: no such file: two",
        ):
            assert re.search(rf"^{line}$", told, re.MULTILINE), f"{line}\nin\n{told}"
        code, shown = on_terminal("inspect", "jobs")
        assert (code, shown.count("jobs, a queue")) == (0, 1)
        worker.send()
        worker.finish()
        q.unlink()


@pytest.mark.parametrize(
    ("type", "value", "shown"),
    [
        (str, "naïve", "naïve"),
        (dict, {"a": [1, None]}, {"a": [1, None]}),
        (dict[int, str], {1: "a"}, {"1": "a"}),
        (list[int], [1, 2], [1, 2]),
        (float, 0.5, 0.5),
    ],
)
def test_values_are_shown_where_the_type_is_known(type: object, value: object, shown: object) -> None:
    with isthmus.Queue("typed", type=type) as q:
        q.put(value)
        (message,) = inspected("typed")["messages"]
        assert message["data"] == shown
        assert text("typed").splitlines()[-1].endswith(f": {shown}")
        if type is not float:
            assert "base64" in inspected("typed", "--bytes", "1")["messages"][0]
        q.get()


@pytest.mark.parametrize("type", [object, np.ndarray, Job, isthmus.Codec("dict", bytes, bytes)])
def test_of_other_types_the_bytes_are_shown(type: object) -> None:
    value: object = b"\x81" if isinstance(type, isthmus.Codec) else Job(id=1) if type is Job else np.arange(3)
    with isthmus.Queue("foreign", type=type) as q:
        q.put(value)
        (message,) = inspected("foreign")["messages"]
        assert "data" not in message
        assert len(base64.b64decode(message["base64"])) == message["size"]
        assert "#0" in text("foreign")
        q.get()


def test_mutexes_and_values(spawn: Callable[..., Peer]) -> None:
    with isthmus.Mutex("lock") as lock, isthmus.Value("level", float("inf")):
        assert f"state     held by {os.getpid()}\n" in text("lock")
        lock.release()
        assert "state     free\n" in text("lock")
        peer = spawn("import isthmus; isthmus.Mutex('lock').acquire(); print('held', flush=True); input()")
        peer.expect("held")
        peer.kill()
        assert f"held by {peer.pid}, which is dead" in text("lock")
        with pytest.raises(isthmus.OwnerDied):
            lock.acquire()
        assert f"its owner, process {peer.pid}, died holding it: to be recovered" in text("lock")
        with lock.recover():
            assert f"process {os.getpid()} is repairing" in text("lock")
            assert inspected("lock")["state"]["owner_died"]["pid"] == peer.pid
        assert "value     inf (float)" in text("level")
        assert inspected("level")["state"] == {"value": "inf"}
        lock.acquire()


def test_shared_memory_and_kinds_that_nothing_special_is_known_of() -> None:
    with isthmus.SharedMemory("frames", size=100_000):
        assert "content   97.7 KiB" in text("frames")
        found = inspected("frames")
    assert found["state"] == {"size": 100_000}
    other = {**found, "kind": "turnstile", "attributes": {}, "state": {"held_by": 7, "open": True}}
    assert list(lines(other))[-2:] == ["state     held by: 7", "          open: True"]


def test_a_damaged_queue_is_shown_as_far_as_it_can_be(namespace: Path) -> None:
    q = isthmus.Queue("jobs", type=bytes, persistent=True)
    q.put(b"a")
    q.close()
    put_word(namespace / "jobs", HEADER + 512, 0xDEADBEEF)
    done = isthmus_command("inspect", "jobs")
    assert (done.returncode, done.stderr) == (1, "")
    assert "problem   the queue's shared memory is damaged" in done.stdout
    assert "of type bytes" in done.stdout
    assert "damaged" in str(inspected("jobs", code=1)["problem"])
    for command in (["get", "jobs"], ["get", "jobs", "--json"]):
        assert_error(isthmus_command(*command), 1, "damaged")
    assert isthmus_command("rm", "jobs").returncode == 0


def test_foreign_files_are_shown_and_never_removed(namespace: Path) -> None:
    (namespace / "foreign").write_bytes(b"no object" * 2000)
    assert inspected("foreign", code=1)["kind"] == "?"
    for command in ("get", "put"):
        assert_error(isthmus_command(command, "foreign"), 1, "'foreign' cannot be used: not an object")
    assert_error(isthmus_command("rm", "foreign"), 1, "not an object")
    assert (namespace / "foreign").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nothere"], 1, "there is no 'nothere' in /"),
        (["a/b"], 2, "cannot be a name: it contains a slash"),
        (["x", "--messages", "-1"], 2, "'-1' is not a number"),
        (["x", "--namespace", "/nonexistent"], 2, "there is no namespace '/nonexistent'"),
    ],
)
def test_what_is_not_there_is_an_error(arguments: list[str], code: int, text: str) -> None:
    assert_error(isthmus_command("inspect", *arguments), code, text)


def test_rm_removes_what_nobody_uses(namespace: Path) -> None:
    isthmus.Queue("empty", type=bytes, persistent=True).close()
    isthmus.Value("count", 1, persistent=True).close()
    full = isthmus.Queue("full", type=bytes, persistent=True)
    full.put_many([b"a", b"b"])
    full.lease()
    full.close()
    done = isthmus_command("rm", "empty", "count", "full")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "isthmus: 2 messages went with 'full'\n"
    assert isthmus.objects() == []


def test_rm_removes_what_is_in_use_only_when_forced() -> None:
    with isthmus.Queue("jobs", type=bytes, persistent=True) as q:
        q.put(b"a")
        assert_error(isthmus_command("rm", "jobs"), 1, f"'jobs' is in use by {os.getpid()} ")
        assert isthmus_command("rm", "jobs", "--force").stderr == ""
        assert isthmus.objects() == []
        assert q.get() == b"a"


def test_rm_goes_on_after_one_that_stays() -> None:
    isthmus.Value("count", 1, persistent=True).close()
    done = isthmus_command("rm", "nothere", "count", "a/b")
    assert done.returncode == 2
    assert [line.split(": ", 2)[1] for line in done.stderr.splitlines()] == ["error", "error"]
    assert "there is no 'nothere'" in done.stderr
    assert isthmus.objects() == []
