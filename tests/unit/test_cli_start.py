"""What the command loads: it starts fast because it imports little. How fast is measured, not tested."""

import subprocess
import sys

import pytest

import isthmus
from commands import on_terminal
from support import PATIENCE

HEAVY = {
    "ast", "asyncio", "dataclasses", "email", "http", "importlib.metadata", "inspect", "json", "logging",
    "msgspec", "multiprocessing", "numpy", "pickle", "pydoc", "rich", "socket", "subprocess", "tempfile",
    "typer", "unittest",
}  # fmt: skip

CODE = """
import sys
before = set(sys.modules)
from isthmus.cli import main
code = main(sys.argv[1:])
import os
os.write(2, " ".join(sorted(set(sys.modules) - before)).encode())
sys.exit(code)
"""


def loaded(*arguments: str, code: int = 0) -> set[str]:
    """The modules that a command brings in, without a terminal."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "may"),
    [
        (["put", "jobs"], set()),
        (["get", "jobs"], set()),
        (["get", "jobs", "--follow", "--timeout", "0"], set()),
        (["ls"], set()),
        (["ls", "--names"], set()),
        (["ls", "--json"], {"json"}),
        (["inspect", "jobs"], set()),
        (["inspect", "jobs", "--json"], {"json"}),
        (["rm", "jobs"], set()),
        (["clean"], set()),
        (["completion", "bash"], set()),
    ],
    ids=" ".join,
)
def test_commands_load_only_what_they_need(arguments: list[str], may: set[str]) -> None:
    isthmus.Queue("jobs", type=bytes, persistent=True).close()
    found = loaded(*arguments)
    assert {name.split(".")[0] for name in found} & HEAVY <= may
    assert not {name for name in found if name.startswith(("isthmus.cli._demo", "isthmus.cli._frames"))}
    # Some 60 here; Python versions differ in what theirs bring in.
    assert len(found) < 110, sorted(found)


def test_types_bring_in_what_converts_them() -> None:
    isthmus.Queue("tasks", type=dict, persistent=True).close()
    found = loaded("get", "tasks")
    assert "msgspec" in found
    assert not {name.split(".")[0] for name in found} & {"rich", "numpy", "asyncio", "multiprocessing"}


@pytest.mark.parametrize(
    "command", ["get jobs", "ls --json", "ls --names", "inspect jobs", "inspect jobs --json"]
)
def test_on_a_terminal_rich_is_loaded_only_by_what_draws(command: str) -> None:
    isthmus.Queue("jobs", type=bytes, persistent=True).close()
    code, shown = on_terminal(*command.split(), PYTHONPROFILEIMPORTTIME="1")
    assert code == 0
    assert "isthmus.cli" in shown
    assert " rich" not in shown
