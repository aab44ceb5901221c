"""`isthmus completion`: complete, and safe whatever objects are called."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import isthmus
from commands import COMMAND, assert_error, isthmus_command
from support import PATIENCE

COMMANDS = ["put", "get", "inspect", "ls", "rm", "clean", "demo", "doctor", "completion"]

BASH = """
isthmus() { "${COMMAND[@]}" "$@"; }
COMMAND=(%s)
compopt() { :; }
eval "$(isthmus completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_isthmus
(( ${#COMPREPLY[@]} )) && printf '%%s\\n' "${COMPREPLY[@]}"
exit 0
"""


def completed(*words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last word of a line."""
    code = BASH % shlex.join(COMMAND)
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", "isthmus", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def objects() -> None:
    isthmus.Queue("jobs", type=bytes, persistent=True).close()
    isthmus.Queue("jobs-done", type=bytes, persistent=True).close()
    isthmus.Value("joy", 1, persistent=True).close()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], COMMANDS),
        (["c"], ["clean", "completion"]),
        (["--v"], ["--version"]),
        (["get", ""], ["jobs", "jobs-done"]),
        (["put", "jobs-"], ["jobs-done"]),
        (["inspect", "jo"], ["jobs", "jobs-done", "joy"]),
        (["rm", "jobs", "jo"], ["jobs", "jobs-done", "joy"]),
        (["get", "--fo"], ["--follow"]),
        (["get", "-n", ""], []),
        (["get", "-n", "2", "jobs-"], ["jobs-done"]),
        (["ls", "--kind", "m"], ["mutex", "memory"]),
        (["put", "new", "--type", "d"], ["dict"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["demo", "fr"], ["frames"]),
        (["demo", "frames", "--r"], ["--rate"]),
        (["nonsense", ""], []),
    ],
)
def test_bash_offers_what_may_stand_there(objects: None, words: list[str], offered: list[str]) -> None:
    assert sorted(completed(*words)) == sorted(offered)


def test_bash_completes_folders_and_names_in_another_namespace(other_namespace: Path) -> None:
    isthmus.Queue("elsewhere", type=bytes, persistent=True, namespace=other_namespace).close()
    assert completed("get", "--namespace", str(other_namespace), "") == ["elsewhere"]
    assert str(other_namespace) in completed("ls", "--namespace", str(other_namespace)[:-1])


def test_a_name_is_quoted_and_never_evaluated(tmp_path: Path) -> None:
    trap = "a $(touch trap);`touch trap`'\""
    isthmus.Queue(trap, type=bytes, persistent=True).close()
    (offered,) = completed("get", "", folder=tmp_path)
    assert shlex.split(offered) == [trap]
    assert list(tmp_path.iterdir()) == []


def test_without_a_namespace_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    assert completed("get", "--namespace", str(tmp_path / "none"), "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_every_script(shell: str) -> None:
    done = isthmus_command("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    for command in [*COMMANDS, "demo frames"]:
        assert re.search(rf"\b{command.split()[-1]}\b", done.stdout), command
        options = isthmus_command(*command.split(), "--help").stdout
        for option in set(re.findall(r"--[a-z]+(?:-[a-z]+)*", options)) - {"--help", "--count"}:
            shown = f"-l {option[2:]}" if shell == "fish" else option
            assert shown in done.stdout, f"{command} {option}"


def test_other_shells_are_wrong_arguments() -> None:
    assert_error(isthmus_command("completion", "csh"), 2, "'csh'")


def test_names_alone_are_one_a_line(objects: None) -> None:
    assert isthmus_command("ls", "--names").stdout == "jobs\njobs-done\njoy\n"
    assert isthmus_command("ls", "--names", "--kind", "value").stdout == "joy\n"
    assert isthmus_command("ls", "--kind", "mutex").stderr == "isthmus: there is no mutex\n"
    assert os.environ["ISTHMUS_NAMESPACE"]
