"""The demo: real processes count a small tree, agree with one process, and end cleanly whatever happens."""

import ctypes
import io
import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import COMMAND, assert_error, isthmus_command, on_terminal, without_progress
from isthmus.cli import _demo, _processes, main
from isthmus.cli import _demo_messages as messages
from isthmus.cli._demo_report import Outcome, differences
from isthmus.cli._progress import Rates, View
from support import PATIENCE, object_files

TEXTS = {
    "plain.txt": "the cat and the hat, the end\n",
    "empty.txt": "",
    "unicode.txt": "naïve Naïve “quoted” 日本語、日本語 Straße STRASSE don't\n" * 50,
    "deep/er/big.txt": "words enough for many pieces and more naïve words\n" * 30_000,
    "no_line_end": "last",
    "latin1.txt": "",  # written below: bytes that are not UTF-8
    "odd\nname.txt": "odd",
}
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name, text in TEXTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "latin1.txt").write_bytes("café au lait\n".encode("latin-1") * 20)
    (root / "binary.bin").write_bytes(bytes(range(256)) * 100)
    (root / "late.bin").write_bytes(b"looks like text " * 10_000 + b"\0")
    os.mkfifo(root / "pipe")
    (root / "circle").symlink_to(root)
    return root


def expected_words(root: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.suffix == ".bin":
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        counts.update(word.casefold() for word in re.findall(r"\w+", text))
    return counts


def demo_json(*arguments: str) -> dict[str, Any]:
    done = isthmus_command("demo", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_it_counts_every_text_file_and_agrees(tree: Path, namespace: Path) -> None:
    result = demo_json(str(tree))
    expected = expected_words(tree)
    assert result["agree"] is True
    assert result["files"] == len(TEXTS)
    assert result["words"] == result["alone"]["words"] == expected.total()
    assert result["different_words"] == len(expected)
    assert dict(result["most_frequent"]).items() <= expected.items()
    assert result["skipped"] == result["alone"]["skipped"] == {"binary": 2, "unbroken": 0, "unreadable": 0}
    assert result["bytes"] == result["alone"]["bytes"]
    assert result["messages"] >= 2 * (len(TEXTS) - 2)
    assert result["workers"] >= 2
    assert object_files(namespace) == []


def test_plain_output_has_no_control_characters(tree: Path) -> None:
    done = isthmus_command("demo", str(tree))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(c == "\n" or c.isprintable() for c in done.stdout)
    assert re.search(r"^agree +yes", done.stdout, re.MULTILINE)
    assert re.search(r"collector: [0-9.]+ s, [0-9.]+ [KMG]?i?B/s$", done.stdout, re.MULTILINE)
    assert re.search(r"[0-9,]+ messages, [0-9,]+ messages/s", done.stdout)
    assert "skipped: 2 binary" in done.stdout


def test_small_queues_and_many_workers_count_the_same(tree: Path) -> None:
    result = demo_json("--capacity", "64K", "--workers", "7", str(tree))
    assert result["words"] == expected_words(tree).total()
    assert result["workers"] == 7


def test_on_a_terminal_it_shows_a_bar_with_rates_and_depth(tree: Path) -> None:
    code, shown = on_terminal("demo", str(tree), columns=80)
    assert code == 0
    assert "queues" in shown
    assert "messages/s" in shown
    assert "depth" in shown
    assert "100%" in shown
    assert re.search(r"agree +yes", shown)


def test_a_single_file_is_enough(tree: Path) -> None:
    assert demo_json(str(tree / "plain.txt"))["words"] == 7


def test_a_folder_without_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "only.bin").write_bytes(b"\0")
    done = isthmus_command("demo", str(tmp_path))
    assert done.returncode == 0
    assert "no text file" in done.stderr


def test_what_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "fine").write_text("three words here")
    (tmp_path / "closed").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").chmod(0)
    (tmp_path / "folder").chmod(0)

    def without_roots_rights() -> None:
        # Root reads what it likes; a root without these capabilities does not.
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 or os.geteuid() != 0

    done = subprocess.run(
        [*COMMAND, "demo", str(tmp_path)],
        preexec_fn=without_roots_rights,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    (tmp_path / "folder").chmod(0o700)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert "1 text file, 16 B; skipped: 2 unreadable" in done.stdout
    assert f"{tmp_path}/closed: Permission denied" in done.stdout
    assert f"{tmp_path}/folder: Permission denied" in done.stdout


def test_a_word_too_large_for_the_queue_names_the_option(tmp_path: Path, namespace: Path) -> None:
    (tmp_path / "long").write_text("x" * 200_000)
    done = isthmus_command("demo", "--capacity", "64K", str(tmp_path))
    assert_error(done, 1, "--capacity")
    assert object_files(namespace) == []
    assert demo_json(str(tmp_path))["words"] == 1
    assert "most frequent: xxxxx" in (shown := isthmus_command("demo", str(tmp_path)).stdout)
    assert max(len(line) for line in shown.splitlines()) < 150


def test_modules_of_the_current_folder_do_no_harm(tree: Path, tmp_path: Path) -> None:
    for name in ("json.py", "re.py", "isthmus.py", "signal.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    done = subprocess.run(
        [COMMAND[0], "-P", *COMMAND[1:], "demo", str(tree / "plain.txt")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, without_progress(done.stderr)) == (0, "")


def test_input_that_changes_meanwhile_is_no_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "growing"
    path.write_text("one two")
    alone: Callable[..., Outcome] = _demo._count_alone

    def after_a_change(*arguments: Any) -> Outcome:
        path.write_text("one two three")
        return alone(*arguments)

    monkeypatch.setattr(_demo, "_count_alone", after_a_change)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["demo", str(tmp_path)]) == 1
    assert signal.getsignal(signal.SIGTERM) == before
    out, errors = capsys.readouterr()
    assert re.search(r"^agree +NO$", out, re.MULTILINE)
    assert "words: 2 with queues, 3 alone" in errors
    assert "word 'three': 0 with queues, 1 alone" in errors
    assert f"1 file changed meanwhile, the first is {path}" in errors


def run_with_workers_of(module: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_processes, "MODULE", module)
    return main(["demo", str(tree)])


def test_processes_that_do_nothing_are_no_success(
    tree: Path, namespace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with_workers_of("this", tree, monkeypatch) == 1
    assert "every process has ended, but the reader's report never came" in capsys.readouterr().err
    assert object_files(namespace) == []


def test_processes_that_do_not_start_say_why(
    tree: Path, namespace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with_workers_of("isthmus.cli.nowhere", tree, monkeypatch) == 1
    errors = capsys.readouterr().err
    assert "ended with exit code 1" in errors
    assert "No module named isthmus.cli.nowhere" in errors
    assert object_files(namespace) == []


def test_messages_come_apart_as_they_were_built() -> None:
    task = messages.Task(7, 2**40, b"text")
    assert messages.read_task(messages.task(7, 2**40, b"text")) == task
    counts = {"naïve": 3, '"': 1}
    assert messages.read(messages.result(task, 12, 2, counts)) == messages.Result(7, 4, 2**40, 12, 2, counts)
    assert messages.read(messages.note("X", {"text": "why"})) == messages.Note("X", {"text": "why"})


def test_a_long_run_off_a_terminal_says_how_far_it_is() -> None:
    stream = io.StringIO()
    show = View(stream)
    show.every = 0.0
    show.start("queues")
    show.update(500)
    show.total(4000)
    show.update(1000, 12, 1234)
    show.update(1000, 12, 1234, 5)
    first, second, third = stream.getvalue().splitlines()
    assert re.fullmatch(r"queues:  500 B  .*B/s", first)
    assert re.fullmatch(r"queues: 25 %  1000 B  [0-9,]+ messages/s  .*B/s  depth 1,234", second)
    assert third.endswith("depth 1,234  killed 5")


def test_rates_are_those_of_the_last_moments() -> None:
    rates = Rates(100.0)
    assert rates.add(101.0, 10, 1000) == (10.0, 1000.0)
    for second in range(2, 10):
        rates.add(100.0 + second, 10, 1000)
    assert rates.add(110.0, 30, 1000) == (20.0, 0.0)
    assert Rates(5.0).add(5.0, 1, 1) == (0.0, 0.0)


def test_differences_are_named_but_not_all() -> None:
    one = Outcome(Counter({f"w{n}": n for n in range(20)}), files=2, bytes=10)
    other = Outcome(Counter({f"w{n}": n + 1 for n in range(20)}), files=2, bytes=10)
    assert one.same_as(one)
    assert not one.same_as(other)
    assert not one.same_as(Outcome(one.counts, files=3, bytes=10))
    assert len(differences(one, other, [])) == 6
