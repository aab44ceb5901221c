"""`isthmus demo --all`: every mechanism is shown between two processes, and what went wrong is not hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import isthmus
from commands import isthmus_command
from support import object_files


def test_every_mechanism_works_and_nothing_is_left_behind(namespace: Path) -> None:
    done = isthmus_command("demo", "--all", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(done.stdout)
    names = [line["mechanism"] for line in lines]
    assert len(names) == len(set(names)) >= 26
    assert {"Pipe", "Fifo", "SharedArray", "MappedFile", "NamedSemaphore", "System V"} < set(names)
    for line in lines:
        assert line["intact"] is True, line
        assert line["latency_us"] > 0, line
        assert line["per_second"] > 0, line
    assert object_files(namespace) == []


@pytest.mark.parametrize("broken", ["Queue", "Mutex"])
def test_what_does_not_arrive_intact_is_said_and_decides_the_exit_code(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from argparse import Namespace

    from isthmus.cli import _all, _all_links, _all_turns

    links = {"Queue": _all_links.LINKS["Queue"]}
    turns = {"Mutex": _all_turns.TURNS["Mutex"]}
    monkeypatch.setattr(_all, "LINKS", links)
    monkeypatch.setattr(_all, "TURNS", turns)
    if broken == "Queue":

        class Bad(_all_links.Queues):
            def recv(self) -> bytes:
                return super().recv()[:-1] + b"?"

        links["Queue"] = (Bad, "shared memory")
    else:

        def once(_name: str, number: isthmus.Value, _first: bool, _rounds: int) -> None:
            number.add(1)

        turns["Mutex"] = (once, "one turn only")
        monkeypatch.setattr(_all_turns, "TURNS", turns)
    assert _all.run(Namespace(json=False)) == 1
    out = capsys.readouterr().out.splitlines()
    bad = [line for line in out if line.startswith("BAD")]
    assert len(bad) == 1
    assert broken in bad[0]
