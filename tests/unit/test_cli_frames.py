"""`isthmus demo frames`: camera, detector and viewer are real processes; what goes wrong is found out."""

import json
import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from commands import COMMAND, assert_error, isthmus_command, on_terminal
from isthmus.cli import _frames, main
from support import PATIENCE, object_files, process_state, wait_until

SMALL = ("--size", "320x200")


def film(*arguments: str) -> dict[str, Any]:
    done = isthmus_command("demo", "frames", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["correct"] is True
    assert result["faults"] == []
    return result


@pytest.fixture
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the processes run the real module, changed by some lines of code."""

    def use(code: str) -> None:
        before = (
            "import os, signal, sys\nfrom isthmus.cli import _frames_picture as picture\n"
            "from isthmus.cli import _frames_roles as real\n"
        )
        (tmp_path / "changed_roles.py").write_text(
            f"{before}{textwrap.dedent(code)}\nsys.exit(real.main(sys.argv[1:]))\n"
        )
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setattr(_frames, "MODULE", "changed_roles")

    return use


def test_large_frames_come_in_order_intact_and_without_a_copy(namespace: Path) -> None:
    result = film("--frames", "40")
    assert (result["frames"], result["width"], result["height"]) == (40, 1920, 1080)
    assert result["frame_bytes"] == 1920 * 1080 * 3
    assert result["copies"] == 0
    assert result["frames_per_second"] > 0
    assert result["bytes_per_second"] == pytest.approx(result["frames_per_second"] * 1920 * 1080 * 3)
    times = result["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    assert object_files(namespace) == []


def test_people_read_rates_latency_and_what_is_copied() -> None:
    done = isthmus_command("demo", "frames", "--frames", "12", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(c == "\n" or c.isprintable() for c in done.stdout)
    assert re.search(r"^frames +12 of 320×200 RGB, 187.5 KiB each$", done.stdout, re.MULTILINE)
    assert re.search(r"^rate +[0-9.]+ frames/s, [0-9.]+ [KMG]iB/s through each", done.stdout, re.MULTILINE)
    assert re.search(r"^latency +p50 [0-9.]+ ms  p90 .* p99 .* max ", done.stdout, re.MULTILINE)
    assert re.search(r"^copies +0: ", done.stdout, re.MULTILINE)
    assert re.search(r"^correct +yes", done.stdout, re.MULTILINE)


def test_small_frames_are_copied_and_it_says_so() -> None:
    result = film("--frames", "5", "--size", "32x32")
    assert result["copies"] == 4 * 5  # filled, read, computed, looked at


def test_it_stops_by_time_and_keeps_to_the_rate() -> None:
    result = film("--seconds", "0.5", "--rate", "20", *SMALL)
    # A slow machine may send fewer, none more.
    assert 1 <= result["frames"] <= 11
    assert film("--seconds", "0.000001", *SMALL)["frames"] == 1
    assert film("--seconds", "100", "--frames", "3", *SMALL)["frames"] == 3


def test_on_a_terminal_it_shows_a_bar_with_frames_a_second() -> None:
    code, shown = on_terminal("demo", "frames", "--frames", "50")
    assert code == 0
    assert "frames/s" in shown
    assert "100%" in shown


def test_the_help_stands_by_itself() -> None:
    done = isthmus_command("demo", "frames", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "isthmus demo frames --seconds 10 --rate 30" in done.stdout
    assert "demo frames" in isthmus_command("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--size", "1920"], "'1920' is not a size from 32x32"),
        (["--size", "31x200"], "'31x200' is not a size"),
        (["--size", "20000x200"], "'20000x200' is not a size"),
        (["--frames", "0"], "'0' is not a number from 1"),
        (["--seconds", "0"], "'0' is not a number above 0"),
        (["--rate", "-1"], "'-1' is not a number above 0"),
        (["--rate", "nan"], "'nan' is not a number above 0"),
        (["somewhere"], "somewhere"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: list[str], text: str) -> None:
    assert_error(isthmus_command("demo", "frames", *arguments), 2, text)


def test_without_numpy_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'numpy' else real(name, *rest)\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    assert_error(isthmus_command("demo", "frames", PYTHONPATH=path), 1, "pip install 'isthmus[demo]'")


def test_too_little_memory_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_left(*_: Any, **__: Any) -> None:
        raise isthmus.NoSpaceError("no memory left")

    monkeypatch.setattr(_frames, "create", none_left)
    assert main(["demo", "frames"]) == 1
    assert capsys.readouterr().err == "isthmus: error: no memory left; a smaller --size needs less\n"


WRONG = {
    "the camera draws elsewhere": (
        """
        paint = picture.paint
        def elsewhere(frame, still, number, moment, x, y):
            paint(frame, still, number, moment, x if number != 3 else (x + 30) % 250, y)
        picture.paint = elsewhere
        """,
        "frame 3: the square was drawn at",
    ),
    "the detector is blind once": (
        """
        find, seen = picture.find, []
        def blind(frame):
            seen.append(1)
            return (-1, -1) if len(seen) == 4 else find(frame)
        picture.find = blind
        """,
        "and found at (-1, -1)",
    ),
    "a byte is wrong": (
        """
        develop = picture.develop
        def badly(frame, seen, x, y):
            develop(frame, seen, x, y)
            if picture.read_stamp(frame)[0] == 2:
                seen[33, 1 if x > 160 else 300, 2] ^= 1
        picture.develop = badly
        """,
        "frame 2 is not intact",
    ),
    "a square without its rim": (
        """
        develop = picture.develop
        def badly(frame, seen, x, y):
            develop(frame, seen, -1 if picture.read_stamp(frame)[0] == 2 else x, y)
        picture.develop = badly
        """,
        "frame 2 is not intact",
    ),
    "a frame is left out": (
        """
        each = real.each
        def most(*arguments):
            for number, frame in enumerate(each(*arguments)):
                if number != 5:
                    yield frame
        real.each = most
        """,
        "frame 6 came where 5 was due",
    ),
    "the last frames are left out": (
        """
        each = real.each
        def some(*arguments):
            for number, frame in enumerate(each(*arguments)):
                if number < 7:
                    yield frame
        real.each = some
        """,
        "3 frames at the end never came",
    ),
    "another moment": (
        """
        paint = picture.paint
        picture.paint = lambda frame, still, number, moment, *at: paint(frame, still, number, moment - 1, *at)
        """,
        "frame 0 carries another moment",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_and_no_success(
    wrong: str, roles: Callable[[str], None], namespace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = WRONG[wrong]
    roles(code)
    assert main(["demo", "frames", "--frames", "10", *SMALL]) == 1
    out, errors = capsys.readouterr()
    assert re.search(r"^correct +NO: ", out, re.MULTILINE)
    assert text in out + errors
    assert object_files(namespace) == []


@pytest.mark.parametrize("role", ["camera", "detector"])
def test_one_that_is_killed_is_reported_and_nothing_hangs(
    role: str, roles: Callable[[str], None], namespace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = {"camera": "paint", "detector": "find"}[role]
    roles(
        f"""
        work, done = picture.{function}, []
        def dying(*arguments):
            done.append(1)
            if len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*arguments)
        picture.{function} = dying
        """
    )
    assert main(["demo", "frames", *SMALL]) == 1
    assert re.search(rf"the {role} \(pid \d+\) was killed by SIGKILL", capsys.readouterr().err)
    assert object_files(namespace) == []


def test_one_that_fails_says_why(roles: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    roles("picture.find = lambda frame: 1 // 0")
    assert main(["demo", "frames", *SMALL]) == 1
    assert "ended with exit code 1: ZeroDivisionError" in capsys.readouterr().err


def test_processes_that_do_nothing_are_no_success(
    roles: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    roles("sys.exit(0)")
    assert main(["demo", "frames", *SMALL]) == 1
    assert "every process has ended, but the film has no end" in capsys.readouterr().err


@pytest.fixture
def running(namespace: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A demo that goes on until it is ended, and its processes."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "frames", "--seconds", "1000", *SMALL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def filming() -> list[int]:
        pids = [int(pid) for pid in children.read_text().split()]
        return pids if len(pids) == 2 and all(_has_open(pid, "-findings") for pid in pids) else []

    pids = wait_until(filming, "camera and detector")
    yield process, pids
    for pid in pids:
        if process_state(pid) not in ("", "Z"):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def _has_open(pid: int, name: str) -> bool:
    try:
        return name in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_interrupted_it_leaves_nothing(
    running: tuple[subprocess.Popen[str], list[int]], namespace: Path, number: signal.Signals, code: int
) -> None:
    process, pids = running
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (code, ""), errors
    assert "Traceback" not in errors
    wait_until(lambda: all(process_state(pid) in ("", "Z") for pid in pids), "the processes to end")
    wait_until(lambda: object_files(namespace) == [], "the names to go")
