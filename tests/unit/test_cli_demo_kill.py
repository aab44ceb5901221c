"""`isthmus demo --kill N`: workers are killed for real, others take over, and the count stays exact."""

import json
import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import COMMAND, assert_error, isthmus_command, on_terminal
from isthmus.cli import _processes, main
from isthmus.cli._demo_kill import LAST, Killer
from support import PATIENCE, object_files, wait_until

FILES = 24
LINE = "some words to count, and one that is the file's own: f{number}\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several hundred pieces of text; what is skipped makes the way longer than the text is."""
    root = tmp_path_factory.mktemp("tree")
    for number in range(FILES):
        (root / f"{number:02}.txt").write_text(LINE.format(number=number) * 4000)
    (root / "zz.bin").write_bytes(bytes(20 << 20))
    return root


@pytest.fixture
def worker_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the demo's processes run the real module, changed by some lines of code."""

    def use(code: str) -> None:
        before = "import os, signal, sys\nfrom isthmus.cli import _demo_worker as real\n"
        (tmp_path / "changed_worker.py").write_text(
            f"{before}{textwrap.dedent(code)}\nsys.exit(real.main(sys.argv[1:]))\n"
        )
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setattr(_processes, "MODULE", "changed_worker")

    return use


def counted(text: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(text)
    assert result["agree"] is True
    assert result["words"] == result["alone"]["words"]
    return result


def test_workers_are_killed_by_sigkill_and_the_count_is_exact(
    tree: Path, namespace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[_processes.Child] = []

    class Watched(_processes.Child):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(_processes, "Child", Watched)
    for _ in range(10):  # until it has killed all: one who counts slowly finds that all is done already
        started.clear()
        assert main(["demo", "--json", "--workers", "3", "--kill", "6", str(tree)]) == 0
        result = counted(capsys.readouterr().out)
        killed = [child.pid for child in started if child.process.returncode == -signal.SIGKILL]
        assert sorted(result["kill"]["killed"]) == sorted(killed)
        assert {child.process.returncode for child in started} == {0, -signal.SIGKILL}
        assert len(started) == 3 + 1 + len(killed)
        assert result["words"] == FILES * 4000 * len(LINE.replace("'", " ").split())
        assert result["kill"]["asked"] == 6
        assert result["kill"]["redelivered"] <= 6
        assert result["kill"]["repeats"] <= 6
        assert object_files(namespace) == []
        if len(killed) == 6:
            return
    pytest.fail("fewer were killed than asked for, each time")


def test_people_read_how_many_died_and_that_nothing_is_lost(tree: Path) -> None:
    done = isthmus_command("demo", "--kill", "3", str(tree))
    while "then everything was counted" in done.stdout:  # before all three could be killed
        done = isthmus_command("demo", "--kill", "3", str(tree))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^killed +3 workers by SIGKILL, and others started in their place$", done.stdout, re.MULTILINE
    )
    assert re.search(
        r"^ +\d pieces? in hand came back .* dropped: nothing was lost$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^agree +yes", done.stdout, re.MULTILINE)
    assert "killed" not in isthmus_command("demo", str(tree / "00.txt")).stdout


def test_the_bar_shows_how_many_are_dead(tree: Path) -> None:
    code, shown = on_terminal("demo", "--kill", "2", str(tree))
    assert code == 0
    assert re.search(r"depth [0-9,]+ +killed [0-2]", shown)


def test_more_kills_than_work_kill_what_there_is(tree: Path) -> None:
    for path in (tree / "00.txt", tree / "zz.bin"):
        done = isthmus_command("demo", "--kill", "100000", str(path))
        assert done.returncode == 0
        found = re.search(
            r"killed +(\d+) of 100,000 workers by SIGKILL.*; then everything was counted", done.stdout
        )
        assert found
        assert int(found[1]) <= 4  # one a piece


def test_killed_before_its_result_a_worker_leaves_the_piece_to_another(
    tree: Path, worker_module: Callable[[str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The first worker that has sent a result waits with its next piece in hand: it can only be killed there.
    worker_module(
        f"""
        count = real.count_piece
        done = 0
        def count_piece(text):
            global done
            done += 1
            if done == 2:
                try:
                    os.close(os.open({str(tmp_path / "first")!r}, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    signal.pause()
            return count(text)
        real.count_piece = count_piece
        """
    )
    assert main(["demo", "--json", "--workers", "1", "--kill", "100000", str(tree / "00.txt")]) == 0
    kill = counted(capsys.readouterr().out)["kill"]
    assert len(kill["killed"]) >= 1
    assert kill["redelivered"] >= 1


def test_killed_behind_its_result_it_makes_a_repeat_that_is_dropped(
    tree: Path, worker_module: Callable[[str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The first worker waits behind its first result: that has to come again, and counts once.
    worker_module(
        f"""
        put = real.Ends.put
        def slowly(self, queue, message):
            put(self, queue, message)
            if message[:1] == b"R":
                try:
                    os.close(os.open({str(tmp_path / "first")!r}, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return
                signal.pause()
        real.Ends.put = slowly
        """
    )
    assert main(["demo", "--json", "--workers", "1", "--kill", "100000", str(tree / "00.txt")]) == 0
    kill = counted(capsys.readouterr().out)["kill"]
    assert 1 <= kill["repeats"] <= len(kill["killed"])
    assert kill["redelivered"] >= 1


@pytest.mark.parametrize("arguments", [[], ["--kill", "1"]])
def test_repeats_that_no_kill_explains_are_no_success(
    tree: Path,
    namespace: Path,
    worker_module: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    worker_module(
        """
        put = real.Ends.put
        def twice(self, queue, message):
            put(self, queue, message)
            if message[:1] == b"R":
                put(self, queue, message)
        real.Ends.put = twice
        """
    )
    assert main(["demo", *arguments, str(tree)]) == 1
    assert "counted twice: no kill explains that" in capsys.readouterr().err
    assert object_files(namespace) == []


def test_a_worker_that_loses_its_piece_is_found_out(
    tree: Path, worker_module: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    worker_module(
        """
        put = real.Ends.put
        lost = []
        def carelessly(self, queue, message):
            if message[:1] == b"R" and not lost:
                lost.append(message)
            else:
                put(self, queue, message)
        real.Ends.put = carelessly
        """
    )
    assert main(["demo", "--workers", "1", str(tree / "00.txt")]) == 1
    assert "every process has ended, but 1 piece never came" in capsys.readouterr().err


def test_who_fails_by_himself_is_not_replaced(
    tree: Path, worker_module: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    worker_module(
        """
        def count_piece(text):
            os.kill(os.getpid(), signal.SIGSEGV)
        real.count_piece = count_piece
        """
    )
    assert main(["demo", "--kill", "5", str(tree)]) == 1
    assert "was killed by SIGSEGV, which nobody asked for" in capsys.readouterr().err


def children_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_it_kills_it_leaves_nothing(
    tree: Path, namespace: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--kill", "1000", str(tree)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = wait_until(lambda: children_of(process.pid), "the first processes")

    def has_killed() -> bool:
        now = children_of(process.pid)
        return bool(now - first and first - now)

    wait_until(has_killed, "one to be dead and another in its place")
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (code, ""), errors
    assert "Traceback" not in errors
    wait_until(lambda: not processes_of(f"demo-{process.pid}-"), "the processes to end")
    assert object_files(namespace) == []


def processes_of(name: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("given", ["-1", "many", "100001", ""])
def test_a_wrong_number_is_refused(given: str) -> None:
    assert_error(isthmus_command("demo", "--kill", given), 2, "from 0 to 100000")


class Victims:
    """Stands for the processes: they die when told to."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self.ended: set[int] = set()

    def kill(self, pid: int) -> bool:
        if pid in self.ended:
            return False
        self.killed.append(pid)
        return True


def killer(wanted: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Killer, Victims]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    victims = Victims()
    return Killer(wanted, victims, lambda: None), victims  # type: ignore[arg-type]


def test_who_has_sent_nothing_yet_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    strikes, victims = killer(3, monkeypatch)
    strikes.strike(1.0, 100)
    assert victims.killed == []
    for pid in (11, 12, 12):
        strikes.saw(pid)
    strikes.strike(1.0, 100)
    assert sorted(victims.killed) == sorted(strikes.pids) == [11, 12]
    strikes.saw(11)  # its last result was on the way
    strikes.strike(1.0, 100)
    assert len(victims.killed) == 2


def test_moments_lie_on_the_way_and_never_more_die_than_pieces_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strikes, victims = killer(1000, monkeypatch)
    for pid in range(2000):
        strikes.saw(pid)
    strikes.strike(LAST / 2, 10**6)
    assert 300 < len(victims.killed) < 700  # half of them; 0.5 ± 12 standard deviations
    strikes, victims = killer(1000, monkeypatch)
    for pid in range(2000):
        strikes.saw(pid)
    strikes.strike(LAST, 7)
    assert len(victims.killed) == 7
    strikes.strike(LAST, 2000)
    assert len(victims.killed) == 1000


def test_who_had_ended_is_not_counted_as_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    strikes, victims = killer(1, monkeypatch)
    victims.ended = {1}
    strikes.saw(1)
    strikes.strike(1.0, 10)
    assert strikes.pids == []
    strikes.saw(2)
    strikes.strike(1.0, 10)
    assert strikes.pids == [2]
