"""The command's manners: help, errors without traceback, exit codes; `ls` and `clean` on real objects."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from commands import COMMAND, assert_error, isthmus_command, on_terminal
from isthmus.cli._arguments import size as size_argument
from isthmus.cli._ls import plain_table, when, width_of
from isthmus.cli._show import printable, size
from support import PATIENCE, Peer, wait_until

HOLDER = """
import sys, isthmus
q = isthmus.Queue(sys.argv[1], type=bytes, capacity=1 << 20)
for _ in range(3):
    q.put(b"x" * 100)
print("holding", flush=True)
sys.stdin.readline()
for _ in range(3):
    q.get()
"""


@pytest.fixture
def holder(spawn: Callable[..., Peer]) -> Peer:
    peer = spawn(HOLDER, "jobs")
    peer.expect("holding")
    return peer


def test_version() -> None:
    done = isthmus_command("--version")
    assert (done.returncode, done.stdout) == (0, f"isthmus {isthmus.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["ls", "--help"], ["clean", "--help"]])
def test_help_has_examples(arguments: list[str]) -> None:
    done = isthmus_command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples:" in done.stdout
    assert "isthmus ls" in done.stdout or arguments[0] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "COMMAND"),
        (["frob"], "'frob'"),
        (["ls", "--frob"], "--frob"),
        (["demo", "--workers", "0"], "'0' is not a number from 1 to 256"),
        (["demo", "--workers", "many"], "'many' is not a number"),
        (["demo", "--capacity", "8X"], "'8X' is not a size"),
        (["demo", "/nonexistent/folder"], "cannot read '/nonexistent/folder': No such file"),
        (["demo", ""], "cannot read '': No such file"),
        (["ls", "--namespace", "/nonexistent/folder"], "there is no namespace '/nonexistent/folder'"),
        (["clean", "--namespace", "/nonexistent/folder"], "there is no namespace"),
        (["demo", "/dev/null"], "neither a file nor a folder"),
        (["demo", "--json", "frames"], "the other demo is `isthmus demo frames`, options last"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: list[str], text: str) -> None:
    assert_error(isthmus_command(*arguments), 2, text)


def test_a_namespace_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("ls", "clean"):
        assert_error(
            isthmus_command(command, "--namespace", str(tmp_path / "file")), 1, str(tmp_path / "file")
        )


def test_commands_load_only_what_they_need() -> None:
    code = (
        "import sys; from isthmus.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    for arguments in (["ls"], ["clean"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        loaded = set(done.stderr.split())
        assert "isthmus.cli._main" in loaded
        assert not loaded & {"rich", "subprocess", "asyncio", "multiprocessing", "isthmus.cli._demo"}


def test_ls_of_an_empty_namespace_says_so() -> None:
    done = isthmus_command("ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert "empty" in done.stderr
    done = isthmus_command("ls", "--json")
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", [])


def test_ls_shows_who_holds_a_queue(holder: Peer) -> None:
    done = isthmus_command("ls")
    assert (done.returncode, done.stderr) == (0, "")
    titles, row = done.stdout.splitlines()
    assert titles.split() == ["NAME", "KIND", "SIZE", "DEPTH", "CAPACITY", "CREATED", "ATTACHED", "NOTE"]
    assert row.startswith("jobs  queue ")
    assert re.search(rf" 3 +1\.0 MiB .* {holder.pid}\b", row)
    assert "\x1b" not in done.stdout
    holder.finish()


def test_ls_json_is_for_programs(holder: Peer) -> None:
    with isthmus.Mutex("a-lock"):
        found = json.loads(isthmus_command("ls", "--json").stdout)
    assert [one["name"] for one in found] == ["a-lock", "jobs"]
    jobs = found[1]
    assert (jobs["kind"], jobs["depth"], jobs["capacity"]) == ("queue", 3, 1 << 20)
    assert (jobs["persistent"], jobs["problem"]) == (False, None)
    assert [one["pid"] for one in jobs["attached"]] == [holder.pid]
    assert jobs["size"] >= jobs["capacity"]
    assert abs(jobs["created"] - Path(f"/proc/{holder.pid}").stat().st_ctime) < 3600
    assert found[0]["depth"] is None
    holder.finish()


def test_ls_shows_the_number_in_a_value() -> None:
    with isthmus.Value("count", -7), isthmus.Value("level", float("inf"), persistent=True) as level:
        _, count, other = isthmus_command("ls").stdout.splitlines()
        assert count.startswith("count  value ")
        assert count.endswith(" = -7")
        assert other.endswith(" = inf; persistent")
        shown = json.loads(isthmus_command("ls", "--json").stdout, parse_constant=pytest.fail)
        assert [one["value"] for one in shown] == [-7, "inf"]
        level.unlink()


def test_ls_does_not_disturb(holder: Peer, namespace: Path) -> None:
    for _ in range(3):
        isthmus_command("ls")
    assert (namespace / "jobs").exists()
    holder.finish()
    assert not (namespace / "jobs").exists()


def test_ls_names_another_namespace(holder: Peer, other_namespace: Path) -> None:
    done = isthmus_command("ls", "--namespace", str(other_namespace))
    assert (done.returncode, done.stdout) == (0, "")
    here = os.environ["ISTHMUS_NAMESPACE"]
    done = isthmus_command("ls", "--namespace", here, ISTHMUS_NAMESPACE=str(other_namespace))
    assert "jobs" in done.stdout
    holder.finish()


def test_ls_shows_what_is_broken_with_its_reason(namespace: Path) -> None:
    (namespace / "foreign").write_bytes(b"no object" * 2000)
    done = isthmus_command("ls", "--json")
    assert done.returncode == 0
    (one,) = json.loads(done.stdout)
    assert one["name"] == "foreign"
    assert one["problem"]
    assert one["problem"] in isthmus_command("ls").stdout


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(holder: Peer, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0
    holder.finish()


def test_a_full_disk_is_an_error_without_traceback(holder: Peer) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "ls"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
    holder.finish()


def test_ls_on_a_terminal_is_a_table_that_fits(holder: Peer) -> None:
    code, shown = on_terminal("ls", columns=100)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "name" in plain
    assert "jobs" in plain
    assert str(holder.pid) in plain
    assert max(len(line) for line in plain.splitlines()) <= 100
    holder.finish()


def test_without_the_extra_the_command_works_and_names_it(tmp_path: Path, holder: Peer) -> None:
    without_rich = tmp_path / "sitecustomize.py"
    without_rich.write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'rich': raise ModuleNotFoundError(name)\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'rich' else real(name, *rest)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    code, shown = on_terminal("ls", PYTHONPATH=path)
    assert code == 0
    assert "isthmus[cli]" in shown
    assert "jobs" in shown
    assert "\x1b" not in shown
    holder.finish()


def test_clean_removes_what_nobody_uses(spawn: Callable[..., Peer], namespace: Path) -> None:
    living, killed = spawn(HOLDER, "living"), spawn(HOLDER, "killed")
    living.expect("holding")
    killed.expect("holding")
    killed.kill()
    assert (namespace / "killed").exists()

    done = isthmus_command("clean", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "killed\n")
    assert "1 object would be removed" in done.stderr
    assert (namespace / "killed").exists()

    done = isthmus_command("clean")
    assert (done.returncode, done.stdout) == (0, "killed\n")
    assert "1 object removed" in done.stderr
    assert not (namespace / "killed").exists()
    assert (namespace / "living").exists()

    done = isthmus_command("clean")
    assert (done.returncode, done.stdout) == (0, "")
    living.finish()


def test_clean_leaves_persistent_objects(namespace: Path) -> None:
    isthmus.Queue.create("kept", type=bytes, capacity=1 << 16, persistent=True).close()
    for arguments in (["clean", "--dry-run"], ["clean"]):
        assert isthmus_command(*arguments).stdout == ""
    assert "persistent" in isthmus_command("ls").stdout
    isthmus.Queue.open("kept", type=bytes).unlink()
    wait_until(lambda: not (namespace / "kept").exists(), "the name to go")


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("512K", 512 << 10), ("8m", 8 << 20), ("1GiB", 1 << 30), ("3 kb", 3072)]
)
def test_sizes_are_understood(text: str, count: int) -> None:
    assert size_argument(text) == count


def test_sizes_are_shown_for_people() -> None:
    assert [size(n) for n in (0, 999, 1024, 8 << 20, 3 << 40)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "8.0 MiB",
        "3.0 TiB",
    ]
    assert size((1 << 50) * 5) == "5120.0 TiB"


@pytest.mark.parametrize(
    "arguments", [["ls"], ["ls", "--names"], ["ls", "--json"], ["inspect", "naïve"], ["get", "--help"]]
)
def test_a_narrow_encoding_is_no_error(arguments: list[str]) -> None:
    q = isthmus.Queue("naïve", type=str, persistent=True)
    q.put("…")
    q.close()
    done = isthmus_command(*arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "na\\xefve" in done.stdout or "na\\u00efve" in done.stdout or arguments[0] == "get"


def test_names_of_others_cannot_move_the_cursor() -> None:
    assert printable("plain name") == "plain name"
    assert "\x1b" not in printable("evil\x1b[2J\n")
    assert printable("a\nb") == "a\\nb"


def test_wide_signs_take_two_columns() -> None:
    assert [width_of(text) for text in ("jobs", "naïve", "nai\u0308ve", "日本")] == [4, 5, 5, 4]


def test_columns_are_in_line() -> None:
    titles = ["NAME", "KIND", "SIZE", "DEPTH", "CAPACITY", "CREATED", "ATTACHED", "NOTE"]
    lines = plain_table([titles, ["a-long-name", "queue", "8.0 MiB", "12", "8.0 MiB", "-", "nobody", ""]])
    assert lines[0].index("KIND") == lines[1].index("queue")
    assert lines[0].index("DEPTH") + len("DEPTH") == lines[1].index("12") + 2
    assert not any(line.endswith(" ") for line in lines)


def test_times_of_other_days_have_a_date() -> None:
    assert when(0) == "-"
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", when(1_600_000_000))
